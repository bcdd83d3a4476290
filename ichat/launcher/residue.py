"""What a launcher that is killed would leave behind, written down in time for the next one to remove it."""

from __future__ import annotations

import contextlib
import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ichat.launcher.process import kill_group
from ichat.system import process_table

log = logging.getLogger(__name__)

_FILE = "residue.json"
_SHM_DIR = Path("/dev/shm")  # noqa: S108  where POSIX shared memory lives


@dataclass
class Residue:
    """Process groups of our children and shared memory of the engines, as of now."""

    machine: str = ""  # boot and pid namespace: elsewhere the same pids mean other processes
    groups: dict[str, int] = field(default_factory=dict)  # leader's pid → when it was started
    shm: list[str] = field(default_factory=list)


class ResidueFile:
    """Kept in the run directory, rewritten whole at each change."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _FILE
        self._now = Residue(machine=_this_machine())

    def started(self, pid: int) -> None:
        process = process_table.read(pid)
        if process is not None:
            self._now.groups[str(pid)] = process.started
            self._write()

    def ended(self, pid: int) -> None:
        if self._now.groups.pop(str(pid), None) is not None:
            self._write()

    def holds(self, shm: list[str]) -> None:
        if shm != self._now.shm:
            self._now.shm = shm
            self._write()

    def _write(self) -> None:
        new = self._path.with_suffix(".new")
        try:
            new.write_text(json.dumps(asdict(self._now)))
            new.replace(self._path)
        except OSError as error:  # a full disk must not end the service that still runs
            log.warning("run directory: %s could not be written (%s); going on", self._path, error.strerror)

    def clean_predecessor(self) -> None:
        """Remove what an earlier launcher wrote down and could not remove itself."""
        try:
            left = Residue(**json.loads(self._path.read_text()))
            groups = {int(pid): int(started) for pid, started in left.groups.items()}
            shm = [str(name) for name in left.shm]
        except FileNotFoundError:
            return
        except (AttributeError, OSError, TypeError, ValueError, RecursionError) as error:
            log.warning("run directory: %s is unreadable (%r); not cleaned by it", self._path, error)
            return
        if left.machine == self._now.machine:
            for pid, started in groups.items():
                if killed := kill_group(pid, started):
                    log.warning("run directory: killed what an earlier launcher had left: %s", killed)
        unlink_shared_memory(shm)
        self._path.unlink(missing_ok=True)


def unlink_shared_memory(names: list[str]) -> None:
    """Unlink segments by path, right below /dev/shm only; those that are gone already are what we want."""
    for name in names:
        path = _SHM_DIR / name
        if path.parent == _SHM_DIR and path.is_file() and not path.is_symlink():
            with contextlib.suppress(OSError):
                path.unlink()


def _this_machine() -> str:
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return ""
