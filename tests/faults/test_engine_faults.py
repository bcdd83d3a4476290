"""FAULTS.md on the real engines: what each fault must look like from outside."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator

import psutil
import pytest

from tests.launcher_process import ROOT
from tests.real_engine import ENGINES, TITLES, Readiness, RealLauncher, Stream, load
from tests.volume import times

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

PROCESSES = [(engine, title) for engine in ENGINES for title in TITLES[engine]]


@pytest.fixture(scope="module")
def launchers() -> Iterator[dict[str, RealLauncher]]:
    """One launcher for each engine in turn: each fault starts when the one before it has been survived."""
    running: dict[str, RealLauncher] = {}
    yield running
    for launcher in running.values():
        assert launcher.stop() == 0
        launcher.assert_nothing_left()
        launcher.__exit__()


@pytest.fixture
def launcher(request: pytest.FixtureRequest, launchers: dict[str, RealLauncher]) -> RealLauncher:
    backend = request.getfixturevalue("backend")
    for other in [name for name in launchers if name != backend]:
        gone = launchers.pop(other)
        assert gone.stop() == 0
        gone.assert_nothing_left()
        gone.__exit__()
    if backend not in launchers:
        launchers[backend] = RealLauncher(backend, restarts={"max_restarts": 50}).start()
    return launchers[backend].wait_ready()


def assert_survived(launcher: RealLauncher, lost: list[psutil.Process], restarts: int) -> None:
    """Nothing of the old worker is left, and a new one serves."""
    launcher.wait_for(lambda: not any(_lives(process) for process in lost), 2)
    launcher.wait_ready()
    assert launcher.complete()[0] == 200
    assert launcher.restarts == restarts + 1


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


@pytest.mark.parametrize(("backend", "title"), PROCESSES)
def test_a_killed_process_is_noticed_told_and_replaced(launcher: RealLauncher, backend: str, title: str) -> None:
    """E1, E2, G2."""
    lost, restarts = list(launcher.engine_processes().values()), launcher.restarts
    readiness = Readiness(launcher)
    with load(launcher) as streams:
        launcher.engine_processes()[title].kill()
        killed_at = time.monotonic()
        for stream in streams:
            stream.join(5)
            assert stream.ended_at - killed_at < 1
            assert stream.error_code
    launcher.wait_for(lambda: launcher.restarts == restarts + 1, 5)
    readiness.stop()
    assert max(readiness.green_after(killed_at), default=0) < 0.5
    assert re.search(rf"{title}\S*.* \(pid \d+, [\d.]+ GiB\) (was killed by SIGKILL|died)", launcher.lines())
    assert_survived(launcher, lost, restarts)


@pytest.mark.parametrize(("backend", "title"), PROCESSES)
def test_a_stopped_process_is_noticed_and_replaced(launcher: RealLauncher, backend: str, title: str) -> None:
    """E4: idle. Not ready within 8 s, killed and started again within 20 s."""
    lost, restarts = list(launcher.engine_processes().values()), launcher.restarts
    launcher.engine_processes()[title].suspend()
    stopped_at = time.monotonic()
    launcher.wait_for(lambda: launcher.get("/readyz")[0] == 503, 9)
    assert time.monotonic() - stopped_at < 8.5
    launcher.wait_for(lambda: launcher.restarts == restarts + 1, 15)
    assert_survived(launcher, lost, restarts)


@pytest.mark.parametrize("backend", ENGINES)
def test_requests_to_a_stopped_engine_get_an_end(launcher: RealLauncher, backend: str) -> None:
    """E4: busy."""
    lost, restarts = list(launcher.engine_processes().values()), launcher.restarts
    with load(launcher, streams=2) as streams:
        launcher.engine_processes()[TITLES[backend][0]].suspend()
        stopped_at = time.monotonic()
        for stream in streams:
            stream.join(25)
            assert stream.ended_at - stopped_at < 20
            assert stream.error_code
    assert_survived(launcher, lost, restarts)


@pytest.mark.parametrize("backend", ENGINES)
def test_nothing_of_a_killed_worker_is_left(launcher: RealLauncher, backend: str) -> None:
    """D4."""
    lost, restarts, front = list(launcher.engine_processes().values()), launcher.restarts, launcher.front_pid
    with load(launcher) as streams:
        psutil.Process(launcher.worker_pid).kill()
        killed_at = time.monotonic()
        for stream in streams:
            stream.join(5)
            assert stream.ended_at - killed_at < 1
            assert stream.error_code == "worker_lost"
    assert_survived(launcher, lost, restarts)
    assert launcher.front_pid == front


@pytest.mark.parametrize("backend", ENGINES)
def test_killed_health_checks_leave_no_zombie(launcher: RealLauncher, backend: str) -> None:
    """H10."""
    for number in range(100):
        check = subprocess.Popen(
            [ROOT / "entrypoint", "health"], env={"ICHAT_RUN_DIR": str(launcher.run_dir), "PATH": "/usr/bin:/bin"},
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(number % 10 / 1000)
        check.kill()
        check.wait()
    time.sleep(1)
    children = psutil.Process(launcher.process.pid).children(recursive=True)
    assert [child for child in children if child.status() == psutil.STATUS_ZOMBIE] == []
    assert launcher.health() == "ready: demo"


@pytest.mark.parametrize("backend", ENGINES)
def test_sigterm_under_load_loses_nothing(
    launchers: dict[str, RealLauncher], launcher: RealLauncher, backend: str
) -> None:
    """D1, D6: red at once, every stream to its own end, exit 0, nothing left."""
    readiness = Readiness(launcher)
    with load(launcher) as streams:
        launcher.process.send_signal(signal.SIGTERM)
        told_at = time.monotonic()
    code = launcher.wait(40)
    readiness.stop()
    assert [stream.is_complete for stream in streams] == [True] * 4, launcher.lines()[-3000:]
    assert code == 0
    assert max(readiness.green_after(told_at), default=0) < 0.1
    del launchers[backend]
    launcher.assert_nothing_left()
    launcher.__exit__()


@pytest.fixture
def busy_machine() -> Iterator[None]:
    """Twice as many busy loops as there are cores."""
    loops = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(2 * len(os.sched_getaffinity(0)))]
    yield
    for loop in loops:
        loop.kill()
        loop.wait()


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
@pytest.mark.parametrize("backend", ENGINES)
def test_an_idle_engine_stops_with_0_within_five_seconds_on_a_busy_machine(
    backend: str, start_method: str, request: pytest.FixtureRequest
) -> None:
    """A plain `docker stop` kills after ten seconds."""
    with RealLauncher(backend, model={"start_method": start_method}) as launcher:
        launcher.wait_ready()
        assert launcher.complete()[0] == 200
        request.getfixturevalue("busy_machine")
        began = time.monotonic()
        assert launcher.stop() == 0, launcher.lines()[-3000:]
        assert time.monotonic() - began < 5
        launcher.assert_nothing_left()
        assert "leaked" not in launcher.lines()


@pytest.mark.parametrize("backend", ENGINES)
def test_a_second_sigterm_hurries_and_a_third_ends(backend: str) -> None:
    """D2, and D7: the engine is stopped in the middle of the drain."""
    with RealLauncher(backend) as launcher:
        launcher.wait_ready()
        with load(launcher) as streams:
            launcher.engine_processes()[TITLES[backend][0]].suspend()
            launcher.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            assert launcher.process.poll() is None, "the first one waits for what is in flight"
            launcher.process.send_signal(signal.SIGTERM)
            hurried_at = time.monotonic()
            for stream in streams:
                stream.join(5)
                assert stream.ended_at - hurried_at < 2
                assert stream.error_code == "shutting_down"
        if launcher.process.poll() is None:
            launcher.process.send_signal(signal.SIGTERM)
        assert launcher.wait(1) == 74
        launcher.assert_nothing_left()


@pytest.mark.parametrize("backend", ENGINES)
def test_a_drain_that_gets_stuck_ends_at_its_deadline(backend: str) -> None:
    """D7: the engine does not answer any more and one client does not read."""
    with RealLauncher(backend, timeouts={"drain_s": 4}) as launcher:
        launcher.wait_ready()
        silent = socket.create_connection(("127.0.0.1", launcher.port))
        body = b'{"model":"demo","prompt":"Hello","max_tokens":1900,"ignore_eos":true,"stream":true}'
        silent.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        with load(launcher, streams=1) as streams:
            launcher.engine_processes()[TITLES[backend][0]].suspend()
            launcher.process.send_signal(signal.SIGTERM)
            told_at = time.monotonic()
        assert launcher.wait(10) == 74
        assert time.monotonic() - told_at < 7
        assert streams[0].error_code == "shutting_down"
        launcher.assert_nothing_left()
        silent.close()


@pytest.mark.parametrize("backend", ENGINES)
def test_a_busy_port_ends_the_start_at_once(backend: str) -> None:
    """S9."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with RealLauncher(backend, server={"port": port}) as launcher:
            began = time.monotonic()
            assert launcher.wait(5) == 75
            assert time.monotonic() - began < 1.5
            assert re.search(rf"ichat: error\[\S+\] .*{port}.*", launcher.lines().splitlines()[-1])
            launcher.assert_nothing_left()


@pytest.mark.parametrize("backend", ENGINES)
def test_a_start_that_hangs_ends_at_its_own_deadline(backend: str) -> None:
    """S13: a process of the engine is stopped while it loads."""
    with RealLauncher(backend, timeouts={"start_s": 25}) as launcher:
        launcher.wait_for(launcher.engine_processes, 60)
        next(iter(launcher.engine_processes().values())).suspend()
        assert launcher.wait(40) == 69
        assert re.search(r"not ready within 25 s, stuck in: weights, \d+ s", launcher.lines().splitlines()[-1])
        launcher.assert_nothing_left()


@pytest.mark.parametrize("backend", ENGINES)
def test_sigterm_at_any_moment_of_the_start_ends_it(backend: str) -> None:
    """S14: a sweep over the whole start; code 0 within 3 s, and nobody left."""
    with RealLauncher(backend) as launcher:
        launcher.wait_ready()
        start_s = time.monotonic() - launcher.began
        launcher.stop()
    steps = times(10, 5)
    for step in range(steps):
        with RealLauncher(backend) as launcher:
            launcher.wait_catching_sigterm()
            time.sleep(start_s * step / (steps - 1))
            launcher.survivors()
            told_at = time.monotonic()
            assert launcher.stop(limit_s=10) == 0, f"at {step}/{steps}: {launcher.lines()[-2000:]}"
            assert time.monotonic() - told_at < 3.2, f"at {step}/{steps}: {launcher.lines()[-2000:]}"
            launcher.assert_nothing_left(1)


@pytest.mark.parametrize("backend", ENGINES)
def test_ready_is_never_said_before_a_token_can_come_out(backend: str) -> None:
    """Starts polled every 10 ms from the first instant to the end, which is a stop or the death of either process."""
    for number in range(times(10, 4)):
        with RealLauncher(backend, restarts={"enabled": False}) as launcher:
            assert launcher.port
            readiness = Readiness(launcher)
            launcher.wait_for(readiness.first_green, 120)
            status, answer = launcher.complete(max_tokens=1)
            assert status == 200, answer
            assert answer["usage"]["completion_tokens"] == 1
            if number % 2:
                launcher.process.send_signal(signal.SIGTERM)
                ended_at, limit_s, code = time.monotonic(), 0.1, 0
            else:
                launcher.engine_processes()[TITLES[backend][number // 2 % 2]].kill()
                ended_at, limit_s, code = time.monotonic(), 0.5, 69
            assert launcher.wait(15) == code
            readiness.stop()
            assert max(readiness.green_after(ended_at), default=0) < limit_s
            launcher.assert_nothing_left()


def test_a_stream_is_only_complete_with_a_finish_reason() -> None:
    """The checker of this file can fail."""
    stream = Stream.__new__(Stream)
    stream.status, stream.error, stream.text = (
        200,
        "",
        b'data: {"choices":[{"finish_reason":null}]}\n\ndata: [DONE]\n\n',
    )
    assert not stream.is_complete
    stream.text = b'data: {"choices":[{"finish_reason":"length"}]}\n\ndata: [DONE]\n\n'
    assert stream.is_complete
