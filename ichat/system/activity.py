"""What a process does, as the kernel tells it: compute, wait for a core, or nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_NS = 1e-9
#: Running or runnable; D waits for a disk, and is at work too.
_AT_WORK = "RD"
_STOPPED = "Tt"


@dataclass(frozen=True)
class Activity:
    """Of the threads of one or more processes, since they began; the sums fall when a thread ends.

    ``cpu_s`` is time on a core; ``queued_s`` time in which a thread could have run and had none, on a machine that is
    busy or under a CPU quota (both from schedstat, Documentation/scheduler/sched-stats.rst). ``is_runnable``: a thread
    runs or could run at this moment. The kernel adds to ``queued_s`` only when the thread runs again, so that for a
    while ``is_runnable`` is all that shows a starved one.
    """

    cpu_s: float = 0.0
    queued_s: float = 0.0
    is_runnable: bool = False
    is_stopped: bool = False  # by a signal or a debugger, as a whole

    def beside(self, other: Activity) -> Activity:
        """Of both together."""
        return Activity(
            self.cpu_s + other.cpu_s,
            self.queued_s + other.queued_s,
            self.is_runnable or other.is_runnable,
            self.is_stopped or other.is_stopped,
        )


def of_process(pid: int) -> Activity:
    """Of all its threads; nothing where there is no such process (any more)."""
    try:
        threads = [int(name) for name in os.listdir(f"/proc/{pid}/task")]  # noqa: PTH208  names are all that is needed
    except OSError:
        return Activity()
    return _together(of_thread(pid, thread) for thread in threads)


def of_thread(pid: int, thread: int) -> Activity:
    """Of one of its threads; the first one has the process's own number."""
    folder = f"/proc/{pid}/task/{thread}"
    try:
        state, ticks = _stat(f"{folder}/stat")
        cpu_s, queued_s = _times(f"{folder}/schedstat", ticks)
    except OSError:
        return Activity()
    return Activity(cpu_s, queued_s, state in _AT_WORK, state in _STOPPED)


def _together(activities: Iterable[Activity]) -> Activity:
    total = Activity()
    for one in activities:
        total = total.beside(one)
    return total


def of_processes(pids: Iterable[int]) -> Activity:
    return _together(map(of_process, pids))


def _stat(path: str) -> tuple[str, int]:
    fields = Path(path).read_bytes().rpartition(b")")[2].split()
    return fields[0].decode(), int(fields[11]) + int(fields[12])


def _times(path: str, ticks: int) -> tuple[float, float]:
    try:
        on_cpu, queued, _ = Path(path).read_bytes().split()
    except (FileNotFoundError, ValueError):  # a kernel without CONFIG_SCHED_INFO
        return ticks / os.sysconf("SC_CLK_TCK"), 0.0
    return int(on_cpu) * _NS, int(queued) * _NS


class Watch:
    """How long something has done nothing, seen at regular looks.

    ``used_s`` is the CPU time since the first look, ``quiet_s`` how long nothing was seen of work: a thread that runs
    or waits for a core, or a twentieth of a core used or waited for since the look before. ``computed_s`` is the time
    in which it had a core at least: many threads do not make it longer than it was, and a machine that gives it a
    tenth of a core makes it a tenth.
    """

    _SHARE = 0.05

    def __init__(self, first: Activity) -> None:
        self._last = first
        self.used_s = self.quiet_s = self.computed_s = 0.0

    def look(self, now: Activity, passed_s: float, *, is_expected: bool = False) -> None:
        """``passed_s`` is the time since the look before; work that is expected does not count as computing."""
        used_s = max(0.0, now.cpu_s - self._last.cpu_s)
        queued_s = max(0.0, now.queued_s - self._last.queued_s)
        self._last = now
        self.used_s += used_s
        self.computed_s += 0.0 if is_expected else min(used_s, passed_s)
        if now.is_runnable or used_s + queued_s >= self._SHARE * passed_s:
            self.quiet_s = 0.0
        else:
            self.quiet_s += passed_s
