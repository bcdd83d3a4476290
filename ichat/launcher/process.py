"""Child processes: the only place that starts, signals and reaps them."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import math
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ichat.errors import ResourceError, is_passing
from ichat.system import process_table
from ichat.system.process_table import Process

_PR_SET_CHILD_SUBREAPER = 36
_FIRST_LOOK_S = 0.002
_LONGEST_LOOK_S = 0.05
#: A tracker whose users are dead unlinks their shared memory and leaves by itself, well within this.
_TRACKER_S = 1.0
#: A process that survives SIGKILL for so long hangs in the kernel: we say so and go on.
_KILL_LIMIT_S = 5.0
#: And so long when there is no time left.
_LAST_KILL_S = 0.3


@dataclass(frozen=True)
class Exit:
    """How a process ended: ``code`` is None when a signal did it."""

    code: int | None
    signal: int | None
    peak_rss_bytes: int = 0

    @property
    def words(self) -> str:
        if self.signal is None:
            return f"exited with code {self.code}"
        try:
            return f"was killed by {signal.Signals(self.signal).name}"
        except ValueError:
            return f"was killed by signal {self.signal}"


class Child:
    """One child process, the leader of its own process group."""

    def __init__(self, name: str, pid: int) -> None:
        self.name, self.pid = name, pid
        self.ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()

    def terminate(self) -> None:
        """Ask it to leave. Harmless when it has."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        # Until we reap it the pid is ours, so it cannot belong to somebody else.
        if not self.ended.done():
            os.kill(self.pid, number)


class Processes:
    """All children of this process, reaped as they end; orphans that come to us are reaped, too."""

    def __init__(self) -> None:
        self._children: dict[int, Child] = {}
        self._must_end_by = math.inf

    def open(self) -> None:
        """Become the one whom orphans of our children come to, and reap from now on."""
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._reap)

    def close(self) -> None:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGCHLD)

    def spawn(
        self, name: str, argv: Sequence[str], *, env: Mapping[str, str], pass_fds: Iterable[int], output_fd: int
    ) -> Child:
        """Start a child in a process group of its own, with its output going to ``output_fd``.

        Not in a session: without a container Linux schedules each session as a group (autogroup), and an engine that
        spins on ``sched_yield`` would let in nobody from another one: the front waited for tens of milliseconds.
        """
        try:
            popen = subprocess.Popen(
                argv,
                env=dict(env),
                pass_fds=tuple(pass_fds),
                stdin=subprocess.DEVNULL,
                stdout=output_fd,
                stderr=output_fd,
                process_group=0,
            )
        except OSError as error:
            raise ResourceError(
                f"{name}: could not start {argv[0]} ({error.strerror}). Free memory or pids."
            ) from error
        child = self._children[popen.pid] = Child(name, popen.pid)
        # We reap it ourselves: with a return code the object never asks about a pid that is no longer its.
        popen.returncode = 0
        return child

    def _reap(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            child = self._children.pop(pid, None)
            if child is not None:
                code = os.waitstatus_to_exitcode(status)
                peak = usage.ru_maxrss * 1024
                child.ended.set_result(Exit(None, -code, peak) if code < 0 else Exit(code, None, peak))

    def _remains(self, child: Child, table: Iterable[Process]) -> list[Process]:
        return process_table.remains_of(child.pid, table, launcher=os.getpid(), living=self._children)

    def _look(self, child: Child) -> list[Process]:
        """What is left of the child; the whole table is read only to be sure that it is nothing."""
        self._reap()
        return self._remains(child, process_table.read_below(os.getpid())) or self._remains(
            child, process_table.read_all()
        )

    async def kill_everything(self, child: Child) -> list[int]:
        """SIGKILL all that is left of a child, dead or alive, and wait until it is gone; the pids that would not go.

        Resource trackers go last: killed early they would leave the shared memory of the others behind.
        """
        began = time.monotonic()
        look_s = _FIRST_LOOK_S
        while (left := self._kill_once(child, began)) and time.monotonic() < self._end_of_patience(began):
            await asyncio.sleep(look_s)
            look_s = min(look_s * 1.5, _LONGEST_LOOK_S)
        return left

    def _end_of_patience(self, began: float) -> float:
        return min(began + _KILL_LIMIT_S, max(self._must_end_by, began + _LAST_KILL_S))

    def _kill_once(self, child: Child, began: float) -> list[int]:
        """What is still there."""
        try:
            left = self._look(child)
            others = [process for process in left if not process_table.is_tracker(process)]
            for process in others or (left if time.monotonic() > began + _TRACKER_S else []):
                _kill(process)
        except OSError as error:
            if not is_passing(error):  # without a descriptor nobody can look: there will be one
                raise
            return [child.pid]
        return [process.pid for process in left]

    def must_end_by(self, deadline: float) -> None:
        """We leave: what SIGKILL does not end is not waited for beyond this moment (of ``time.monotonic()``)."""
        self._must_end_by = deadline

    def kill_all_now(self) -> None:
        """SIGKILL every descendant, without waiting for anything."""
        for process in process_table.descendants_of(os.getpid(), process_table.read_all()):
            _kill(process)


def kill_group(leader: int, started: int) -> list[int]:
    """SIGKILL what is left of a process group that a killed launcher has left behind; the pids that were hit.

    ``started`` is the start of its leader: a pid that somebody else has got since is left alone.
    """
    table = process_table.read_all()
    now_there = next((process for process in table if process.pid == leader), None)
    if now_there is not None and now_there.started != started:
        return []
    members = [process for process in table if process.group == leader and process.started >= started]
    for process in members:
        _kill(process)
    return [process.pid for process in members]


def _kill(process: Process) -> None:
    """SIGKILL exactly this process: by pidfd, after a look whether the pid still means the same one."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        fd = os.pidfd_open(process.pid)
        try:
            current = process_table.read(process.pid)
            if current is not None and current.started == process.started:
                signal.pidfd_send_signal(fd, signal.SIGKILL)
        finally:
            os.close(fd)
