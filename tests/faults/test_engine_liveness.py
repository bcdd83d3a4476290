"""A busy machine is not a dead engine, and a dead one is not busy: on the real engines."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.real_engine import ENGINES, TITLES, RealLauncher, Stream, load
from tests.spinning import CAN_SPIN, spin

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


@pytest.mark.skipif(not CAN_SPIN, reason="the loop is written for x86-64")
@pytest.mark.parametrize("backend", ENGINES)
def test_a_process_in_an_endless_loop_is_not_ready_within_15_s_under_traffic(backend: str) -> None:
    """It is not killed: it might come to an end, and what is in flight with it. The time for that is busy_limit_s."""
    with RealLauncher(backend) as launcher:
        launcher.wait_ready()
        process = launcher.engine_processes()[TITLES[backend][1 if backend == "vllm" else 0]]
        with traffic(launcher) as sent:
            time.sleep(3)
            assert any(stream.is_complete for stream in sent)
            spin(process.pid)
            with contextlib.suppress(psutil.AccessDenied):
                process.nice(-15)  # what is measured is that it computes: neighbours on this machine must not prevent it
            after_s = red_after(launcher, 30)
            print(f"{backend}: red {after_s:.1f} s after the loop began, load {os.getloadavg()[0]:.1f}")
            assert after_s < 15
        assert launcher.restarts == 0
        assert "computes, and has made no token of" in launcher.lines() or "not answered a probe" in launcher.lines()


@pytest.mark.parametrize("backend", ENGINES)
def test_a_stopped_process_is_seen_at_once_under_traffic(backend: str) -> None:
    with RealLauncher(backend) as launcher:
        launcher.wait_ready()
        process = launcher.engine_processes()[TITLES[backend][1]]
        with load(launcher, streams=2), traffic(launcher):
            process.suspend()
            assert red_after(launcher, 5) < 2
            process.resume()
            launcher.wait_ready(10)
        assert launcher.restarts == 0


def test_a_stopped_copy_is_found_while_its_sibling_answers() -> None:
    """SGLang with two data-parallel copies, one scheduler stopped, two requests a second."""
    env = {"SGLANG_CPU_OMP_THREADS_BIND": "0|1"}
    with RealLauncher("sglang", env=env, model={"data_parallel_size": 2}) as launcher:
        launcher.wait_ready(200)
        worker = psutil.Process(launcher.worker_pid)
        copies = [child for child in worker.children(recursive=True) if "scheduler_DP1" in " ".join(child.cmdline())]
        assert len(copies) == 1
        with traffic(launcher) as sent:
            time.sleep(3)
            assert any(stream.is_complete for stream in sent)
            copies[0].suspend()
            assert red_after(launcher, 15) < 3
            launcher.wait_for(lambda: launcher.restarts == 1, 15)
        launcher.wait_ready(100)
        assert launcher.complete()[0] == 200


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
