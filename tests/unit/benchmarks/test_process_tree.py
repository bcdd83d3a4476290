"""Nothing that a benchmark starts outlives it."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from benchmarks.process_tree import ProcessTree

#: A program with a child that ignores SIGTERM, in a session of its own, and that says when both are there.
STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    print("child", flush=True)
    while True:
        sum(range(1000))
signal.signal(signal.SIGTERM, signal.SIG_DFL)
print("parent", flush=True)
time.sleep(60)
"""


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def tree(tmp_path: Path) -> ProcessTree:
    return ProcessTree([sys.executable, "-c", STUBBORN], env=dict(os.environ), folder=tmp_path)


def test_the_end_of_a_tree_is_the_end_of_every_process_of_it(tree: ProcessTree) -> None:
    with tree:
        wait_for(lambda: "child" in tree.said() and "parent" in tree.said())
        members = tree.members()
        assert len(members) == 2
    for process in members:
        assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_a_frozen_tree_uses_no_cpu_until_it_is_thawed(tree: ProcessTree) -> None:
    with tree:
        wait_for(lambda: "child" in tree.said() and tree.cpu_s() > 0)
        tree.freeze()
        wait_for(lambda: {process.status() for process in tree.members()} == {psutil.STATUS_STOPPED})
        frozen_s = tree.cpu_s()
        time.sleep(0.05)
        assert tree.cpu_s() == frozen_s
        tree.thaw()
        wait_for(lambda: tree.cpu_s() > frozen_s)


def test_a_program_that_ended_says_why(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", "import sys; print('no more memory'); sys.exit(3)"]
    with ProcessTree(argv, env=dict(os.environ), folder=tmp_path) as tree:
        wait_for(lambda: tree._popen.poll() is not None)
        with pytest.raises(RuntimeError, match=r"(?s)code 3.*no more memory"):
            tree.assert_lives()
