"""What runs on this machine, as /proc tells it, and which of it belongs to a child of ours."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

#: multiprocessing's resource tracker unlinks the shared memory of its users once they are gone.
_TRACKER = "multiprocessing.resource_tracker"
_DEAD = "ZXx"


@dataclass(frozen=True)
class Process:
    """One line of the table. ``started`` (clock ticks since boot) tells two processes of one pid apart."""

    pid: int
    ppid: int
    group: int
    state: str
    started: int

    @property
    def is_dead(self) -> bool:
        """A zombie, or about to be one: nothing to kill."""
        return self.state in _DEAD


def read(pid: int) -> Process | None:
    """None: there is no such process (any more)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The name in brackets may itself hold spaces and brackets: all that counts comes after the last one.
    fields = stat[stat.rindex(b")") + 2 :].split()
    return Process(pid, int(fields[1]), int(fields[2]), fields[0].decode(), int(fields[19]))


def read_all() -> list[Process]:
    """Everything that lives now."""
    found = (read(int(name)) for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208
    return [process for process in found if process is not None and not process.is_dead]


def read_below(ancestor: int) -> list[Process]:
    """``ancestor`` and all that descends from it now: quick, but one that is just being born or orphaned may be missed.

    Every process where the kernel does not tell children (CONFIG_PROC_CHILDREN).
    """
    found: list[Process] = []
    waiting = [ancestor]
    while waiting:
        pid = waiting.pop()
        process = read(pid)
        if process is not None and not process.is_dead:
            found.append(process)
        try:
            for task in Path(f"/proc/{pid}/task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
        except OSError:
            if pid == ancestor:
                return read_all()
    return found


def read_descendants(ancestor: int) -> list[Process]:
    """All that descends from it now, the dead ones too whose status nobody has taken; not itself.

    Without a look at any other process of the machine, where the kernel tells children.
    """
    found: list[Process] = []
    waiting = _children_of(ancestor)
    if waiting is None:
        everything = (read(int(name)) for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208
        return descendants_of(ancestor, [process for process in everything if process is not None])
    while waiting:
        pid = waiting.pop()
        if (process := read(pid)) is not None:
            found.append(process)
            waiting += _children_of(pid) or ()
    return found


def _children_of(pid: int) -> list[int] | None:
    """None: it is gone, or the kernel does not tell."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return None


def command_line(pid: int, limit: int = 80) -> str:
    """The command line in one line, shortened; empty when it cannot be read."""
    with contextlib.suppress(OSError):
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
        return raw.rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")[:limit]
    return ""


def is_tracker(process: Process) -> bool:
    return _TRACKER in command_line(process.pid, limit=1000)


def remains_of(child: int, table: Iterable[Process], *, launcher: int, living: Collection[int]) -> list[Process]:
    """All of ``table`` that is, or was, part of the launcher's child ``child``.

    That is its process group, its descendants, and orphans: since the launcher is a subreaper and so are the workers,
    an orphan comes to the launcher only when its whole worker has died. ``living`` are the children (each the leader
    of its own group) that it must not belong to. What shares the launcher's own group was there before it: the
    shell script that became the launcher may have started it.
    """
    by_pid = {process.pid: process for process in table}
    others = (set(living) | {process.group for process in by_pid.values() if process.pid == launcher}) - {child}

    def is_part(process: Process) -> bool:
        if process.group == child:
            return True
        top = _child_above(process, by_pid, launcher)
        return top is not None and (top.pid == child or (top.pid not in others and top.group not in others))

    return [process for process in by_pid.values() if is_part(process)]


def descendants_of(launcher: int, table: Iterable[Process]) -> list[Process]:
    """Its children, theirs, and so on."""
    by_pid = {process.pid: process for process in table}
    return [process for process in by_pid.values() if _child_above(process, by_pid, launcher) is not None]


def _child_above(process: Process, by_pid: dict[int, Process], launcher: int) -> Process | None:
    """The launcher's own child that ``process`` descends from (perhaps itself); None when it is no descendant."""
    seen: set[int] = set()  # the table is no snapshot: a pid that is used again could close a circle
    while process.pid not in seen:
        if process.ppid == launcher:
            return process
        seen.add(process.pid)
        above = by_pid.get(process.ppid)
        if above is None:
            return None
        process = above
    return None
