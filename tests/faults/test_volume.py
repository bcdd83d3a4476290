"""What must hold every time, many times: restarts that leave nothing, and stops at any instant."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.launcher_process import SHM_BYTES, Launcher, shared_memory, zombies_of
from tests.volume import times

pytestmark = pytest.mark.volume

RESTARTS, STOPS = times(1000, 240), times(500, 120)
AT_ONCE = 3  # a little more than the cores, so that the order of things varies
EVERY_S = 0.01
ENDLESS = {"max_restarts": 10 * RESTARTS}
SOON = {"restart_backoff_s": 0.001, "restart_backoff_limit_s": 0.002, "linger_s": 0, "drain_s": 5}


def in_parallel(work: Callable[[int], None]) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(work, range(AT_ONCE)))


@pytest.fixture
def unchanged_machine() -> Iterator[None]:
    """No shared memory is left."""
    before = shared_memory()
    yield
    assert shared_memory() <= before


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@pytest.mark.timeout(600)
def test_deaths_and_restarts_leave_nothing_behind(unchanged_machine: None) -> None:
    def kill_and_wait(part: int) -> None:
        dice = random.Random(part)
        with Launcher(engine_args={"shm_bytes": SHM_BYTES}, timeouts=SOON, restarts=ENDLESS) as it:
            it.wait_ready()
            front, opened = it.front_pid, descriptors(it.process.pid)
            for number in range(1, RESTARTS // AT_ONCE + 2):
                time.sleep(dice.uniform(0, 0.02))
                worker = it.worker_pid
                victim = worker if dice.random() < 0.5 else next(iter(children_of(worker)), worker)
                os.kill(victim, signal.SIGKILL)
                wait_until(lambda n=number: is_ready_again(it, n), it)
            assert it.front_pid == front
            assert descriptors(it.process.pid) <= opened + 2
            assert zombies_of(it.process.pid) == []
            assert len(it.engine_pids()) == 1
            assert len(list((it.run_dir / "w").iterdir())) == 1
            assert it.stop() == 0
            it.assert_nothing_left()

    in_parallel(kill_and_wait)


@pytest.mark.timeout(600)
def test_stops_at_any_instant_end_with_0_within_three_seconds(unchanged_machine: None) -> None:
    def start_and_stop(part: int) -> None:
        dice = random.Random(part)
        for _ in range(STOPS // AT_ONCE + 1):
            with Launcher(engine_args={"shm_bytes": SHM_BYTES}, timeouts=SOON) as it:
                it.wait_catching_sigterm()
                time.sleep(dice.uniform(0, 0.9))
                began = time.monotonic()
                assert it.stop() == 0, it.lines()
                assert time.monotonic() - began < 3, it.lines()
                it.assert_nothing_left()

    in_parallel(start_and_stop)


def is_ready_again(it: Launcher, restarts: int) -> bool:
    status = it.status()
    return bool(status) and status["ready"] and status["instances"][0]["restarts"] == restarts


def wait_until(condition: Callable[[], bool], it: Launcher) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, it.lines()[-4000:]
        time.sleep(EVERY_S)


def children_of(pid: int) -> list[int]:
    """Its engine's processes."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split() if Path(f"/proc/{child}/comm").read_text().startswith("sleep")]
