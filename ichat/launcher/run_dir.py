"""The directory of one running ichat: chosen, locked, cleaned of what a killed predecessor left, removed at the end."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
from pathlib import Path

from ichat.errors import ConfigError, IchatError, PermissionDeniedError, Problem, TemporaryError, known_refusal
from ichat.launcher.residue import ResidueFile, unlink_shared_memory

PROBE_SOCKET = "ichat.sock"
#: The image has it, and nobody else should.
CONTAINERS = Path("/run/ichat")
_LOCK = "lock"
_WORKERS = "w"
#: All that is ever in it: a directory with anything else is somebody's, and would suffer from our cleaning.
_OURS = frozenset({PROBE_SOCKET, _LOCK, _WORKERS, "residue.json", "residue.new"})
_LONGEST_SOCKET_PATH = 107  # sun_path, less its terminating zero
#: "w/<number>/tmp/" and the names of 36 characters that the engines give their sockets there.
_DEEPEST = len("/w/9999/tmp/") + 36


def choose(setting: str | None, port: int | str, xdg_runtime_dir: str | None) -> Path:
    """As the `entrypoint` script does for `ichat health`: keep the two alike."""
    if setting:
        return Path(setting).absolute()
    if os.access(CONTAINERS, os.W_OK | os.X_OK):
        return CONTAINERS
    if xdg_runtime_dir and os.access(xdg_runtime_dir, os.W_OK | os.X_OK):
        return Path(xdg_runtime_dir) / f"ichat-{port}"
    return Path(f"/tmp/ichat-{os.getuid()}-{port}")  # noqa: S108  checked to be ours below


class RunDir:
    """Holds the lock as long as this process lives."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.probe_socket = str(path / PROBE_SOCKET)
        self.residue = ResidueFile(path)
        self._lock_fd = -1
        self._workers = 0
        self._shm: dict[str, list[str]] = {}

    @classmethod
    def claim(cls, path: Path) -> RunDir:
        """Make it ours alone; TemporaryError when another launcher has it."""
        if len(os.fsencode(path)) + _DEEPEST > _LONGEST_SOCKET_PATH:
            limit = _LONGEST_SOCKET_PATH - _DEEPEST
            what = f'"{path}" is too long: sockets in it need a path of at most {limit} bytes. Choose a shorter one.'
            raise ConfigError([Problem("E-CFG-RUN-DIR", "ICHAT_RUN_DIR:", what)])
        run_dir = cls(path)
        try:
            run_dir._lock()
            run_dir.residue.clean_predecessor()
            run_dir._empty()
            (path / _WORKERS).mkdir(mode=0o700)
        except OSError as error:
            raise _explain(path, error) from error
        return run_dir

    def _lock(self) -> None:
        while True:
            if not self.path.exists():
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.path.mkdir(mode=0o700, exist_ok=True)
            self._check_owner()
            self._check_content()
            fd = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                pid = os.pread(fd, 20, 0).decode(errors="replace").strip() or "unknown"
                os.close(fd)
                raise TemporaryError(
                    f"{self.path}: in use by the ichat with pid {pid}. Stop it, or choose another port and directory.",
                    code="E-RUN-DIR-BUSY",
                ) from error
            # Its last owner may have removed the file between our open and our lock: then nobody else sees this lock.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(fd), (self.path / _LOCK).stat()):
                    os.truncate(fd, 0)
                    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
                    self._lock_fd = fd
                    return
            os.close(fd)

    def _check_owner(self) -> None:
        """In /tmp anybody could have made the directory before us, or a link in its place."""
        found = os.lstat(self.path)
        is_ours = found.st_uid == os.geteuid() and stat.S_ISDIR(found.st_mode)
        if not is_ours and self.path.parent == Path("/tmp"):  # noqa: S108
            raise PermissionDeniedError(
                f"{self.path}: belongs to somebody else (uid {found.st_uid}). Choose another with ICHAT_RUN_DIR.",
                code="E-RUN-DIR-OWNER",
            )

    def _check_content(self) -> None:
        strange = sorted({entry.name for entry in self.path.iterdir()} - _OURS)
        if strange:
            what = f'"{self.path}" holds other things ({strange[0]}). Give ichat a directory of its own.'
            raise ConfigError([Problem("E-CFG-RUN-DIR", "ICHAT_RUN_DIR:", what)])

    def _empty(self) -> None:
        shutil.rmtree(self.path / _WORKERS, ignore_errors=True)
        for name in (_WORKERS, PROBE_SOCKET):
            with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                (self.path / name).unlink()

    def new_worker(self) -> Path:
        """An empty directory for the next worker, with its `tmp` inside. Those above it may have been deleted."""
        self.make_again()
        self._workers += 1
        folder = self.path / _WORKERS / str(self._workers)
        for directory in (folder, folder / "tmp"):
            directory.mkdir(mode=0o700)
        return folder

    def make_again(self) -> bool:
        """Make what somebody has deleted, closed to others as before; whether the lock was gone.

        TemporaryError: another ichat has the directory meanwhile.
        """
        is_gone = not self._has_lock()
        if is_gone:
            old, self._lock_fd = self._lock_fd, -1
            try:
                self._lock()
            except BaseException:
                self._lock_fd = old
                raise
            os.close(old)
        if not (self.path / _WORKERS).exists():  # whatever else it is by now is told by who uses it
            (self.path / _WORKERS).mkdir(mode=0o700)
        return is_gone

    def _has_lock(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._lock_fd), (self.path / _LOCK).stat())
        except OSError:
            return False

    def remove_worker(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)

    def holds(self, worker: str, shm: list[str]) -> None:
        """The shared memory that a worker holds now, and that must be gone when the directory is."""
        self._shm[worker] = shm
        self.residue.holds(self._all_shared_memory())

    def _all_shared_memory(self) -> list[str]:
        return [name for names in self._shm.values() for name in names]

    def remove(self) -> None:
        """All of it; a directory that cannot be removed (a mount) stays, empty. Harmless when repeated."""
        if self._lock_fd < 0:
            return
        # Before the note of it goes: a worker that was not buried has not done it.
        unlink_shared_memory(self._all_shared_memory())
        self._empty()
        for name in ("residue.json", "residue.new", _LOCK):
            (self.path / name).unlink(missing_ok=True)
        if self.path != CONTAINERS:  # the image's own stays for the next start
            with contextlib.suppress(OSError):
                self.path.rmdir()
        os.close(self._lock_fd)
        self._lock_fd = -1


def _explain(path: Path, error: OSError) -> IchatError:
    known = known_refusal(error)  # a full disk is one
    return PermissionDeniedError(
        f"{path}: cannot be used as run directory ({error.strerror}). Choose a writable one with ICHAT_RUN_DIR.",
        code="E-RUN-DIR",
        exit_code=known[0] if known else None,
    )
