"""The processes of one engine: seen by pidfd, watched for their end, and killed without leaving any behind."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import select
import signal
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from pathlib import Path

import psutil

from ichat.backends import compilers
from ichat.system import activity, process_table
from ichat.system.activity import Activity

log = logging.getLogger(__name__)

_KILL_POLL_S = 0.02
#: multiprocessing's resource tracker unlinks shared memory when its users are gone: it is never killed early.
_TRACKER = "resource_tracker"
_TRACKER_S = 1.0
_SHM_DIR = Path("/dev/shm")  # noqa: S108  where POSIX shared memory lives
_SHM = re.compile(r"/dev/shm/([^/\s]+)(?: \(deleted\))?$", re.MULTILINE)  # noqa: S108
#: Between fork and exec a child bears its parent's title, though it is only about to be a compiler.
_SETTLE_S = 0.2


@dataclass
class _Process:
    pid: int
    fd: int
    title: str
    is_ours: bool  # started by this process itself, whose libraries will ask for its status
    matches_since: float | None = None
    is_vital: bool = False
    rss_bytes: int = 0
    is_armed: bool = field(default=False, repr=False)
    is_compiling: bool = False
    is_part: bool = False  # another compiler has started it
    counts: bool = False  # a compiler that no other one has started

    @property
    def is_gone(self) -> bool:
        return bool(select.select([self.fd], [], [], 0)[0])

    def describe(self) -> str:
        size = f", {self.rss_bytes / 2**30:.1f} GiB" if self.rss_bytes else ""
        return f"{self.title[:60]} (pid {self.pid}{size})"


class EngineProcesses:
    """Every descendant of this process, found by ``scan()``.

    ``vital`` matches the titles of those whose end is the engine's end; ``on_death`` is called with words as
    soon as one of them ends, for whatever reason, also with exit code 0. Others (compilers, trackers) may come and go.
    """

    def __init__(self, vital: re.Pattern[str], on_death: Callable[[str], None], *, settle_s: float = _SETTLE_S) -> None:
        self._vital, self._on_death, self._settle_s = vital, on_death, settle_s
        self._known: dict[int, _Process] = {}
        self._shm: set[str] = set()
        self._not_ours = {entry.name for entry in os.scandir(_SHM_DIR)}
        self._is_watching = True
        self._compiled = 0

    def scan(self) -> None:
        """Find new processes, forget those that ended, and arm the watch of the vital ones."""
        for process in list(self._known.values()):
            if process.is_gone and not process.is_vital:
                self._forget(process)
        for found in process_table.read_descendants(os.getpid()):
            with contextlib.suppress(psutil.Error, OSError):
                self._look_at(psutil.Process(found.pid))

    def _look_at(self, child: psutil.Process) -> None:
        known = self._known.get(child.pid)
        if known is None:
            # One that is dead when we first see it was an orphan's, and came to us with its orphan.
            is_ours = child.ppid() == os.getpid() and child.status() != psutil.STATUS_ZOMBIE
            known = self._known[child.pid] = _Process(child.pid, os.pidfd_open(child.pid), "", is_ours)
            self._note_shared_memory(child.pid)
        # Engines set their titles only some time after the fork, until when a child bears its parent's.
        known.title = " ".join(child.cmdline()).strip() or known.title or child.name()
        known.rss_bytes = child.memory_info().rss
        if compilers.is_at_work(known.title):
            parent = self._known.get(child.ppid())
            known.is_compiling = True
            # For good: where its parent ends first it becomes the child of another process.
            known.is_part |= parent is not None and compilers.is_compiler(parent.title)
            known.counts = compilers.is_compiler(known.title) and not known.is_part
        if self._vital.search(known.title):
            known.matches_since = known.matches_since or time.monotonic()
            known.is_vital = time.monotonic() - known.matches_since >= self._settle_s
        elif not known.is_gone:
            known.matches_since, known.is_vital = None, False
        self._arm(known, known.is_vital and self._is_watching)

    def _arm(self, process: _Process, is_armed: bool) -> None:
        if is_armed and not process.is_armed:
            asyncio.get_running_loop().add_reader(process.fd, self._died, process)
        elif process.is_armed and not is_armed:
            asyncio.get_running_loop().remove_reader(process.fd)
        process.is_armed = is_armed

    def _died(self, process: _Process) -> None:
        self._arm(process, is_armed=False)
        if self._is_watching:
            self._on_death(f"{process.describe()} {_how_it_ended(process.fd)}")

    def disarm(self) -> None:
        """From now on an end is no news."""
        self._is_watching = False
        for process in self._known.values():
            self._arm(process, is_armed=False)

    @property
    def vital(self) -> list[str]:
        """The watched processes that live, in words."""
        return [process.describe() for process in self._known.values() if process.is_vital and not process.is_gone]

    def stopped(self) -> tuple[str, ...]:
        """The processes that a signal or a debugger holds (state T or t), as of the last scan; also helpers.

        It costs one small read a process, so that it can be asked twice a second.
        """
        living = (process for process in self._known.values() if not process.is_gone)
        return tuple(p.describe() for p in living if activity.of_thread(p.pid, p.pid).is_stopped)

    def activity(self, matches: Callable[[str], bool] = lambda _title: True) -> Activity:
        """What the engine does, compilers and other helpers of its own included; only processes with such titles.

        An engine that waits for its compiler (vLLM's first request for logprobs: 11 s on two cores) works.
        """
        self.scan()
        living = (process for process in self._known.values() if not process.is_gone)
        return activity.of_processes(process.pid for process in living if matches(process.title))

    def shared_memory(self) -> list[str]:
        """Paths of the shared memory that these processes, or this one, have made and that still exists.

        A segment is a plain file right below /dev/shm, of our user, that was not there before we were: whatever
        else an engine maps there (a model, a cache) belongs to somebody who wants to keep it.
        """
        for pid in [os.getpid(), *self._known]:
            self._note_shared_memory(pid)
        self._shm = {name for name in self._shm if _is_segment_of_ours(_SHM_DIR / name)}
        return sorted(str(_SHM_DIR / name) for name in self._shm)

    def _note_shared_memory(self, pid: int) -> None:
        self._shm |= _shared_memory_of(pid) - self._not_ours

    async def kill_all(self, limit_s: float = 5.0) -> int:
        """SIGKILL all descendants (stopped ones too) until none is left; how many were still alive.

        The resource tracker goes last and by itself, if it can: it unlinks the shared memory of the others.
        """
        self.disarm()
        killed: set[int] = set()
        end = time.monotonic() + limit_s
        trackers_end = time.monotonic() + _TRACKER_S
        own_tracker = resource_tracker._resource_tracker._pid  # type: ignore[attr-defined]  # it leaves when we do
        while time.monotonic() < end:
            self.scan()
            living = [p for p in self._known.values() if not p.is_gone and p.pid != own_tracker]
            others = [process for process in living if _TRACKER not in process.title]
            if not living:
                break
            for process in others or (living if time.monotonic() > trackers_end else []):
                with contextlib.suppress(OSError):
                    signal.pidfd_send_signal(process.fd, signal.SIGKILL)
                    killed.add(process.pid)
            await asyncio.sleep(_KILL_POLL_S)
        for process in list(self._known.values()):
            process.is_ours = False  # whoever might have asked for its status is gone with the engine
            self._forget(process)
        return len(killed)

    def compiling(self) -> tuple[int, int]:
        """Compilers and their drivers that run now, and how many compilers have ended; as of the last scan."""
        running = sum(process.is_compiling and not process.is_gone for process in self._known.values())
        return running, self._compiled

    def _forget(self, process: _Process) -> None:
        if self._known.pop(process.pid, None) is not None:
            self._compiled += process.counts
        self._arm(process, is_armed=False)
        if not process.is_ours:
            # An orphan that came to us (PR_SET_CHILD_SUBREAPER): nobody else takes its status, it would stay a zombie.
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PIDFD, process.fd, os.WEXITED | os.WNOHANG)
        os.close(process.fd)


def _how_it_ended(fd: int) -> str:
    """In words; only of a child of this process is the status known, and it is left for whoever waits for it."""
    try:
        status = os.waitid(os.P_PIDFD, fd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        status = None
    if status is None:
        return "died"
    if status.si_code == os.CLD_EXITED:
        return f"exited with code {status.si_status}"
    try:
        name = signal.Signals(status.si_status).name
    except ValueError:  # a real-time signal has no name here
        name = f"signal {status.si_status}"
    return f"was killed by {name}"


def _is_segment_of_ours(path: Path) -> bool:
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()


def _shared_memory_of(pid: int) -> set[str]:
    found: set[str] = set()
    with contextlib.suppress(OSError):
        found |= set(_SHM.findall(Path(f"/proc/{pid}/maps").read_text(errors="replace")))
    with contextlib.suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                found |= set(_SHM.findall(str(Path(entry.path).readlink())))
    return found
