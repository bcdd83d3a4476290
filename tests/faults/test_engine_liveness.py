"""A busy machine is not a dead engine, and a dead one is not busy: on the real engines."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.launcher_process import ask
from tests.real_engine import ENGINES, TITLES, RealLauncher, Stream, load
from tests.spinning import CAN_SPIN, spin
from tests.tiny_weights import overflowing_weights

pytestmark = [pytest.mark.engine, pytest.mark.timeout(280)]
full = pytest.mark.skipif(not os.environ.get("ICHAT_TEST_FULL"), reason="long; set ICHAT_TEST_FULL=1")

_CPU_CGROUPS = Path("/sys/fs/cgroup/cpu")


@contextmanager
def traffic(launcher: RealLauncher, every_s: float = 0.5) -> Iterator[list[Stream]]:
    """Two requests a second, whatever becomes of them."""
    sent: list[Stream] = []
    over = threading.Event()

    def ask() -> None:
        while not over.wait(every_s):
            sent.append(Stream(launcher, tokens=8))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    yield sent
    over.set()
    asking.join()


def red_after(launcher: RealLauncher, limit_s: float) -> float:
    began = time.monotonic()
    launcher.wait_for(lambda: launcher.get("/readyz")[0] == 503, limit_s)
    return time.monotonic() - began


@pytest.mark.parametrize("backend", ENGINES)
def test_a_dead_process_is_not_busy(backend: str) -> None:
    """One that is stopped is seen at once under traffic, and one in an endless loop within 15 s.

    Neither ends what is in flight: a stopped process may go on, as here, and a long computation may come to an end. The
    time for the one is probe_limit_s, for the other busy_limit_s.
    """
    with RealLauncher(backend) as launcher:
        launcher.wait_ready()
        with load(launcher, streams=2) as streams, traffic(launcher):
            process = launcher.engine_processes()[TITLES[backend][1]]
            process.suspend()
            assert red_after(launcher, 5) < 2
            process.resume()
            launcher.wait_ready(10)
        assert [stream.is_complete for stream in streams] == [True, True]
        process = launcher.engine_processes()[TITLES[backend][1 if backend == "vllm" else 0]]
        with traffic(launcher) as sent:
            launcher.wait_for(lambda: any(stream.is_complete for stream in sent), 10)
            if CAN_SPIN:
                spin(process.pid)
                with contextlib.suppress(psutil.AccessDenied):
                    process.nice(-15)  # what is measured is that it computes, whatever its neighbours do
                after_s = red_after(launcher, 30)
                print(f"{backend}: red {after_s:.1f} s after the loop began, load {os.getloadavg()[0]:.1f}")
                assert after_s < 15
                launcher.wait_for(
                    lambda: re.search(r"not ready: the engine (computes, and|has not ans)", launcher.lines()), 2
                )
        assert launcher.restarts == 0


@full
@pytest.mark.parametrize("backend", ENGINES)
def test_an_idle_engine_costs_next_to_no_cpu(backend: str) -> None:
    with RealLauncher(backend) as launcher:
        launcher.wait_ready()
        time.sleep(5)
        worker = psutil.Process(launcher.worker_pid)
        processes = [worker, *worker.children(recursive=True)]
        before = _cpu_s(processes)
        time.sleep(15)
        share = (_cpu_s(processes) - before) / 15
        print(f"{backend}: {share:.3f} of a core")
        assert share < 0.15


def _cpu_s(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


@full
@pytest.mark.parametrize("backend", ENGINES)
def test_a_copy_that_goes_in_circles_or_is_stopped_is_found_while_its_sibling_answers(backend: str) -> None:
    """Two data-parallel copies, two requests a second."""
    cores = {"sglang": ("SGLANG_CPU_OMP_THREADS_BIND", "0|1"), "vllm": ("VLLM_CPU_OMP_THREADS_BIND", "nobind")}
    title = {"sglang": "scheduler_DP1", "vllm": "EngineCore_DP1"}[backend]
    with RealLauncher(backend, env=dict([cores[backend]]), model={"data_parallel_size": 2}) as launcher:
        launcher.wait_ready(200)
        with traffic(launcher) as sent:
            time.sleep(11)  # two probes of each copy
            assert launcher.get("/readyz")[0] == 200, launcher.health()
            assert any(stream.is_complete for stream in sent)
            copy = _copy(launcher, title)
            if CAN_SPIN:
                spin(copy.pid)
                with contextlib.suppress(psutil.AccessDenied):
                    copy.nice(-15)
                print(f"{backend}: red {red_after(launcher, 40):.1f} s after a copy went in circles")
                assert launcher.restarts == 0
            copy.suspend()
            red_after(launcher, 3)
            launcher.wait_for(lambda: launcher.restarts == 1, 15)
        launcher.wait_ready(100)
        assert launcher.complete()[0] == 200


def _copy(launcher: RealLauncher, title: str) -> psutil.Process:
    children = psutil.Process(launcher.worker_pid).children(recursive=True)
    found = [child for child in children if title in " ".join(child.cmdline())]
    assert len(found) == 1, children
    return found[0]


# ---- a machine that is busy -------------------------------------------------------------------------------------


@contextmanager
def few_cores(cores: float, launcher: RealLauncher) -> Iterator[None]:
    """A CPU quota for the launcher and all that is its own (cgroup v1)."""
    group = _CPU_CGROUPS / f"ichat-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "cpu.cfs_period_us").write_text("100000")
        (group / "cpu.cfs_quota_us").write_text(str(int(cores * 100_000)))
        root = psutil.Process(launcher.process.pid)
        for process in [root, *root.children(recursive=True)]:
            (group / "cgroup.procs").write_text(str(process.pid))
        yield
    finally:
        for pid in (group / "cgroup.procs").read_text().split():
            (_CPU_CGROUPS / "cgroup.procs").write_text(pid)
        group.rmdir()


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    yield
    for loop in loops:
        loop.kill()
        loop.wait()


@full
@pytest.mark.skipif(not os.access(_CPU_CGROUPS, os.W_OK), reason="a quota needs a writable cgroup (v1)")
@pytest.mark.parametrize("backend", ENGINES)
def test_a_fifth_of_a_core_is_no_hang(backend: str) -> None:
    """With a first request for logprobs, which compiles on vLLM, and streams beside it."""
    with RealLauncher(backend) as launcher:
        launcher.wait_ready()
        with few_cores(0.2, launcher), load(launcher, streams=2, tokens=60):
            status, _ = launcher.complete(logprobs=1)
            time.sleep(10)
        print(f"{backend}: {status}, {launcher.health()}")
        assert status == 200 or launcher.health() == "ready: demo"
        assert launcher.restarts == 0, launcher.lines()[-3000:]


@full
@pytest.mark.parametrize("backend", ENGINES)
def test_thirty_busy_neighbours_are_no_hang(backend: str) -> None:
    with RealLauncher(backend) as launcher:
        launcher.wait_ready()
        with busy_loops(30):
            stream = Stream(launcher, tokens=40)
            began = time.monotonic()
            status, _ = launcher.complete(logprobs=1)
            time.sleep(max(0.0, began + 45 - time.monotonic()))
        stream.join(60)
        print(f"{backend}: {status}")
        assert launcher.restarts == 0, launcher.lines()[-3000:]


@full
@pytest.mark.parametrize("backend", ENGINES)
def test_a_prompt_of_eight_megabytes_is_no_hang(backend: str) -> None:
    with RealLauncher(backend) as launcher:
        launcher.wait_ready()
        status, _ = launcher.complete("x " * (1 << 22))
        print(f"{backend}: {status}")
        launcher.wait_ready(60)
        assert launcher.restarts == 0, launcher.lines()[-3000:]


@full
@pytest.mark.parametrize("backend", ENGINES)
def test_weights_whose_answers_overflow_are_not_served(backend: str, tmp_path: Path) -> None:
    """No NaN is in the files. The engine is started again with the weights that it had, and answers as before."""
    with RealLauncher(backend, admin={"port": 0}, env={"ICHAT_ADMIN_TOKEN": "t"}) as launcher:
        launcher.wait_ready()
        before = launcher.complete("Who are you?", max_tokens=12)[1]["choices"][0]["text"]
        path = overflowing_weights(tmp_path / "overflowing")
        port = int(launcher.wait_for(lambda: re.search(r"admin port 127.0.0.1:(\d+)", launcher.lines()), 5)[1])
        status, words = ask(
            port, "POST", "/admin/models/demo/update_weights", json.dumps({"path": str(path)}),
            {"Authorization": "Bearer t", "Content-Type": "application/json"}, timeout_s=60,
        )  # fmt: skip
        print(status, words)
        assert status == 502
        assert "brought NaN or no numbers" in words, words
        launcher.wait_for(lambda: launcher.restarts == 1, 30)
        launcher.wait_ready()
        for _ in range(4):
            assert launcher.complete("Who are you?", max_tokens=12)[1]["choices"][0]["text"] == before
