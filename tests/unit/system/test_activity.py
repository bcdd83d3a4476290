"""What a process does, read from /proc; and the watch over it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ichat.system import activity
from ichat.system.activity import Activity, Watch


@contextmanager
def running(code: str) -> Iterator[int]:
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.read(1)
        yield child.pid
    finally:
        child.kill()
        child.wait()


SAY = "import os, threading, time; os.write(1, b'x'); "


def look(pid: int, seconds: float = 0.6) -> Watch:
    watch = Watch(activity.of_process(pid))
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.1)
        watch.look(activity.of_process(pid), 0.1)
    return watch


def test_one_that_computes_is_at_work() -> None:
    with running(SAY + "\nwhile True: pass") as pid:
        assert look(pid).quiet_s == 0


def test_one_that_computes_in_another_thread_is_at_work_and_its_first_thread_is_not() -> None:
    code = SAY + "threading.Thread(target=lambda: [None for _ in iter(int, 1)]).start(); time.sleep(1000)"
    with running(code) as pid:
        assert look(pid).quiet_s == 0


def test_one_that_sleeps_is_quiet() -> None:
    with running(SAY + "time.sleep(1000)") as pid:
        time.sleep(0.2)
        assert look(pid).quiet_s > 0.3


def test_one_that_waits_for_a_core_is_at_work() -> None:
    """Six of them on one core: each has a sixth of it, and waits for the rest."""
    core = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, {{{core}}}); os.write(1, b'x')\nwhile True: pass"
    children = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(6)]
    try:
        for child in children:
            assert child.stdout is not None
            child.stdout.read(1)
        pid = children[0].pid
        before, watch = activity.of_process(pid), look(pid, 1.0)
        after = activity.of_process(pid)
        assert watch.quiet_s == 0
        assert after.queued_s - before.queued_s > after.cpu_s - before.cpu_s > 0
    finally:
        for child in children:
            child.kill()
            child.wait()


def test_one_that_is_stopped_says_so() -> None:
    with running(SAY + "\nwhile True: pass") as pid:
        os.kill(pid, signal.SIGSTOP)
        deadline = time.monotonic() + 5
        while not activity.of_thread(pid, pid).is_stopped and time.monotonic() < deadline:
            time.sleep(0.01)
        found = activity.of_thread(pid, pid)
        assert found.is_stopped
        assert not found.is_runnable


def test_one_that_is_gone_does_nothing() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert activity.of_process(child.pid) == activity.of_thread(child.pid, child.pid) == Activity()
    assert activity.of_processes([]) == Activity()


@pytest.mark.parametrize(
    ("now", "quiet_s"),
    [
        (Activity(1.0, 1.0), 0.5),
        (Activity(1.01, 1.0), 0.5),
        (Activity(1.03, 1.0), 0.0),
        (Activity(1.0, 1.03), 0.0),
        (Activity(1.0, 1.0, is_runnable=True), 0.0),
        (Activity(0.2, 0.1), 0.5),  # a thread has ended
    ],
)
def test_a_twentieth_of_a_core_or_a_wait_for_one_is_work(now: Activity, quiet_s: float) -> None:
    watch = Watch(Activity(1.0, 1.0))
    watch.look(now, 0.5)
    assert watch.quiet_s == quiet_s
