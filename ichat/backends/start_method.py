"""What makes it safe to fork a process that has imported an engine, and what makes the import quick."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import re
import signal
import sys
from collections.abc import Iterator

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


_libc = ctypes.CDLL(None)  # once: a forked child must not spend time on it before it is safe


def die_with_parent(parent_pid: int) -> None:
    """Ask the kernel to kill this process when its parent dies; leave at once if it already has."""
    _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies, so that none is lost from sight."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def guard_forks() -> None:
    """Make every later ``os.fork`` of this process safe. Call once.

    A forked engine process must not act as the worker it was forked from: it inherits the loop's wake-up
    descriptor, through which a SIGTERM to the child would be read as a SIGTERM to the worker, and handlers that do
    nothing in the child. And it must not outlive the worker, not even one that dies at the same moment.
    """
    from ichat.config.sources import openmp_cpu_list  # not at the top: die_with_parent() must not wait for it

    forking: list[int] = [0]

    def before() -> None:
        forking[0] = os.getpid()

    def in_child() -> None:
        die_with_parent(forking[0])
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, signal.SIG_DFL)
        _bind_openmp_threads(cpus_in(openmp_cpu_list()))

    os.register_at_fork(before=before, after_in_child=in_child)


def _bind_openmp_threads(cpus: set[int]) -> None:
    """Do what an OpenMP library does with its CPU list when it is loaded: in a forked process it already is.

    Unbound, a vLLM worker on the CPU competes with the API process for its core.
    """
    cpus &= os.sched_getaffinity(0)
    if cpus:
        os.sched_setaffinity(0, cpus)
        if (torch := sys.modules.get("torch")) is not None:
            torch.set_num_threads(len(cpus))


def cpus_in(words: str) -> set[int]:
    """The CPUs in `0 1 2-3`, `{0,1}` or `…,proclist=[0,1]`; none for a list with strides, which we do not read."""
    listed = words.rpartition("proclist=")[2]
    if ":" in listed:
        return set()
    ranges = (part.split("-") for part in re.findall(r"\d+(?:-\d+)?", listed))
    return {cpu for ends in ranges for cpu in range(int(ends[0]), int(ends[-1]) + 1)}


@contextlib.contextmanager
def quiet_collector() -> Iterator[None]:
    """Keep the garbage collector off while an engine is imported: millions of objects, none of them garbage.

    Measured: a sixth of the import's time. Afterwards they are frozen, so that a forked child does not copy
    pages only to count references in them.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()
