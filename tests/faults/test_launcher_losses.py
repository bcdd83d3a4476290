"""An exit code of 0 is a promise, and no failure of the system is a bug: what the launcher says at its end."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import time

import pytest

from tests.faults.test_launcher_faults import QUICK, SLOW, Stream, streams
from tests.launcher_process import ICHAT, SHM_BYTES, Launcher, shared_memory


def begin_to_leave(it: Launcher) -> None:
    it.process.send_signal(signal.SIGTERM)
    it.wait_for(lambda: "draining" in it.health(), 1)


@pytest.mark.parametrize("linger_s", [0, 30])
def test_a_worker_that_dies_while_it_leaves_has_cut_requests_off(linger_s: float) -> None:
    with Launcher(engine_args=SLOW, timeouts={"linger_s": linger_s, "drain_s": 31 if linger_s else 10}) as it:
        it.wait_ready()
        one = streams(it, 1, words=2000)[0]
        begin_to_leave(it)
        os.kill(it.worker_pid, signal.SIGKILL)
        one.join(5)
        assert "worker_lost" in one.text
        if linger_s:
            it.process.send_signal(signal.SIGTERM)
        assert it.wait(10) == 74
        assert "front: drained aborted=1" in it.lines()
        assert "requests were cut off aborted=1" in it.lines()
        it.assert_nothing_left()


def test_a_worker_that_died_before_does_not_count() -> None:
    with Launcher(engine_args=SLOW, timeouts=QUICK) as it:
        it.wait_ready()
        one = streams(it, 1, words=2000)[0]
        os.kill(it.worker_pid, signal.SIGKILL)
        one.join(5)
        it.wait_for(lambda: it.restarts == 1, 5)
        it.wait_ready()
        assert it.stop() == 0


@pytest.mark.parametrize("linger_s", [0, 2])
def test_a_front_that_dies_while_it_leaves_has_cut_requests_off(linger_s: float) -> None:
    with Launcher(engine_args=SLOW, timeouts={"linger_s": linger_s, "drain_s": 10}) as it:
        it.wait_ready()
        one = streams(it, 1, words=2000)[0]
        it.wait_for(lambda: it.status()["front"]["in_flight"] == 1, 3)
        begin_to_leave(it)
        os.kill(it.front_pid, signal.SIGKILL)
        one.join(5)
        assert not one.is_complete
        assert it.wait(10) == 74
        assert "requests were cut off aborted=1" in it.lines()
        it.assert_nothing_left()


def test_a_run_directory_that_is_damaged_is_73_and_removed() -> None:
    with Launcher(timeouts=QUICK) as it:
        it.wait_ready()
        worker = it.worker_pid
        shutil.rmtree(it.run_dir / "w")
        (it.run_dir / "w").write_text("no directory")
        os.kill(worker, signal.SIGKILL)
        assert it.wait(10) == 73
        last = it.lines().splitlines()[-1]
        assert last.startswith("ichat: error[E-OS] demo/0: could not be started: ")
        assert "Not a directory" in last
        it.assert_nothing_left()


@pytest.mark.parametrize("limit", [24, 64, 256])
def test_too_few_descriptors_are_71_at_the_start_with_the_number_that_is_needed(limit: int) -> None:
    with Launcher(command=("sh", "-c", f'ulimit -n {limit}; exec "$0" "$@"', *ICHAT)) as it:
        assert it.wait(10) == 71
        last = it.lines().splitlines()[-1]
        assert last.startswith(
            f"ichat: error[E-OS-DESCRIPTORS] open files: the hard limit is {limit}, ichat needs 512 "
        )
        it.assert_nothing_left()


def test_few_descriptors_make_few_connections_and_one_line_says_so() -> None:
    with Launcher(command=("sh", "-c", 'ulimit -n 512; exec "$0" "$@"', *ICHAT), timeouts=QUICK) as it:
        it.wait_ready()
        told = [line for line in it.lines().splitlines() if "takes 192 connections at most" in line]
        assert len(told) == 1
        assert "for 10000 (server.limits.connections) the limit of open files must be 20128, and is 512" in told[0]
        one = Stream(it.port, 3)
        one.join(5)
        assert one.is_complete
        assert it.stop() == 0


def test_enough_descriptors_are_not_mentioned() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with Launcher(timeouts=QUICK, server={"limits": {"connections": min(1000, (hard - 128) // 2)}}) as it:
        it.wait_ready()
        assert it.stop() == 0
        assert "connections at most" not in it.lines()


def test_the_third_signal_leaves_no_shared_memory() -> None:
    before = shared_memory()
    with Launcher(engine_args={"shm_bytes": SHM_BYTES}, timeouts={"linger_s": 20, "drain_s": 60}) as it:
        it.wait_ready()
        it.wait_for(lambda: json.loads((it.run_dir / "residue.json").read_text())["shm"], 3)
        assert shared_memory() - before
        for _ in range(2):
            it.process.send_signal(signal.SIGTERM)
            time.sleep(0.02)
        assert it.stop() == 74
        it.assert_nothing_left()
        assert shared_memory() <= before
