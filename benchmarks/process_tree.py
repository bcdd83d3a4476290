"""A program under measurement with all processes it starts: its CPU, its pauses, and its sure end."""

from __future__ import annotations

import contextlib
import ctypes
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

_PR_SET_CHILD_SUBREAPER = 36
_LEAVE_S = 15.0
_TRACKER_S = 1.0


def adopt_orphans() -> None:
    """Become the parent of whatever outlives a program that was started here, so that it is found and killed."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class ProcessTree:
    """``with`` one: started on entry; when it is left nothing of it lives, and its shared memory is unlinked."""

    def __init__(
        self, argv: Sequence[str], *, env: Mapping[str, str], folder: Path, pass_fds: Sequence[int] = ()
    ) -> None:
        self.argv, self._env, self._folder, self._pass_fds = list(argv), dict(env), folder, pass_fds
        self._log = folder / "log"
        self._seen: set[psutil.Process] = set()

    def __enter__(self) -> ProcessTree:
        with self._log.open("wb") as log:
            self.began = time.perf_counter()
            self._popen = subprocess.Popen(
                self.argv,
                env=self._env,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=self._pass_fds,
                # A session of its own would be scheduled apart from the load, as no container is: Linux shares the CPU
                # among sessions (autogroup), and an engine that spins on `sched_yield` lets in only its own.
                process_group=0,
            )
        self._root = psutil.Process(self._popen.pid)
        return self

    def __exit__(self, *_: object) -> None:
        with _undisturbed():
            self.stop()

    # ---- what it is doing -------------------------------------------------------------------------------------

    def assert_lives(self) -> None:
        """RuntimeError with the last lines that it said, if it has ended."""
        if self._popen.poll() is not None:
            said = self._log.read_text(errors="replace")[-3000:]
            raise RuntimeError(
                f"{' '.join(self.argv[:4])} … ended with code {self._popen.returncode}; it said:\n{said}"
            )

    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def members(self) -> list[psutil.Process]:
        """Parents before their children; those that have lost their parent, too."""
        with contextlib.suppress(psutil.Error):
            self._seen |= {self._root, *self._root.children(recursive=True)}
        for process in list(self._seen):
            with contextlib.suppress(psutil.Error):
                self._seen.update(process.children(recursive=True))
        alive = [process for process in self._seen if _is_alive(process)]
        return sorted(alive, key=lambda process: (process.create_time(), process.pid))

    def cpu_s(self) -> float:
        """What the living processes have used, by the scheduler's own count."""
        return cpu_s_of(self.pids())

    def pids(self) -> list[int]:
        return [process.pid for process in self.members()]

    def rss_kib(self) -> float:
        """Resident memory of all of it; what two of its processes share counts twice."""
        return sum(_rss_kib(process) for process in self.members())

    # ---- control ----------------------------------------------------------------------------------------------

    def freeze(self) -> None:
        """Stop all of it, parents first, so that nobody sees a child stop: idle engines poll, and would cost others."""
        _send(self.members(), signal.SIGSTOP)

    def thaw(self) -> None:
        _send(self.members()[::-1], signal.SIGCONT)

    def stop(self) -> None:
        """SIGTERM to the program, a while to leave, SIGKILL to what is left; resource trackers are given longer."""
        self.thaw()
        members = self.members()
        segments = _shared_memory(members)
        if self._popen.poll() is None:
            self._popen.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(_LEAVE_S)
        _kill([process for process in self.members() if not _is_tracker(process)])
        psutil.wait_procs(self.members(), timeout=_TRACKER_S)
        _kill(self.members())
        with contextlib.suppress(ChildProcessError):
            self._popen.wait()
        for segment in segments:
            segment.unlink(missing_ok=True)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """A second Ctrl-C, or the end of a time limit, waits until the first has been obeyed."""
    stops = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, stops)


def _is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def _is_tracker(process: psutil.Process) -> bool:
    """Python's own process that unlinks shared memory when all others have gone."""
    with contextlib.suppress(psutil.Error):
        return any("resource_tracker" in word for word in process.cmdline())
    return False


def _send(processes: Sequence[psutil.Process], number: int) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


def _kill(processes: Sequence[psutil.Process]) -> None:
    _send(processes, signal.SIGKILL)
    psutil.wait_procs(processes, timeout=5)


def cpu_s_of(pids: Sequence[int]) -> float:
    """What the living threads of these processes have used, by the scheduler's own count: cheap enough for every turn."""
    spent_ns = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):
                spent_ns += int(task.read_text().split()[0])
    return spent_ns / 1e9


def _rss_kib(process: psutil.Process) -> float:
    with contextlib.suppress(psutil.Error):
        return float(process.memory_info().rss / 1024)
    return 0.0


def _shared_memory(processes: Sequence[psutil.Process]) -> set[Path]:
    """Segments with a name that the processes have mapped."""
    found = set()
    for process in processes:
        with contextlib.suppress(OSError):
            maps = Path(f"/proc/{process.pid}/maps").read_text(errors="replace")
            found |= {Path(path) for path in re.findall(r" (/dev/shm/\S+)$", maps, re.MULTILINE)}
    return found
