"""The memory limit of this container, and how often the kernel killed for it: the cause behind many a SIGKILL."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_SELF = Path("/proc/self/cgroup")
# Version 1 says "no limit" by a number close to 2^63.
_UNLIMITED_BYTES = 1 << 60


@dataclass(frozen=True)
class _Files:
    """What one version of cgroups calls the same things."""

    events: Path
    limit: Path
    peak: Path
    current: Path


class MemoryLimit:
    """Reads the cgroup (version 2 or 1) that this process belongs to. Where there is none, nothing is known."""

    def __init__(self, root: Path = _ROOT, own: Path = _SELF) -> None:
        self._files = next((files for files in _candidates(root, own) if files.events.is_file()), None)

    def kills(self) -> int | None:
        """How many processes the OOM killer has taken so far."""
        if self._files is None:
            return None
        with contextlib.suppress(OSError, ValueError):
            for line in self._files.events.read_text().splitlines():
                name, _, value = line.partition(" ")
                if name == "oom_kill":
                    return int(value)
        return None

    def free_bytes(self) -> int | None:
        """What the limit leaves; None where there is none. Caches that the kernel would give back count as taken."""
        if self._files is None:
            return None
        limit, current = _bytes(self._files.limit), _bytes(self._files.current)
        return None if limit is None or current is None else max(0, limit - current)

    def hint(self, kills_before: int | None) -> str:
        """Words about a kill since ``kills_before``; empty when there was none."""
        kills = self.kills()
        if self._files is None or kills is None or kills_before is None or kills <= kills_before:
            return ""
        limit, peak = _gib(self._files.limit), _gib(self._files.peak)
        known = [f"limit {limit}"] if limit else []
        known += [f"peak {peak}"] if peak else []
        figures = f" ({', '.join(known)})" if known else ""
        return f" by the kernel's OOM killer{figures}. Give the container more memory, or lower context_length"


def _candidates(root: Path, own: Path) -> list[_Files]:
    """Below our own path where the host's tree is visible; at the root inside a container with a tree of its own."""
    paths: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            paths[controllers] = path.lstrip("/")
    version_1 = next((path for names, path in paths.items() if "memory" in names.split(",")), "")
    return [
        *(_version_2(root / path) for path in (paths.get("", ""), "")),
        *(_version_1(root / "memory" / path) for path in (version_1, "")),
    ]


def _version_2(folder: Path) -> _Files:
    return _Files(folder / "memory.events", folder / "memory.max", folder / "memory.peak", folder / "memory.current")


def _version_1(folder: Path) -> _Files:
    return _Files(
        folder / "memory.oom_control",
        folder / "memory.limit_in_bytes",
        folder / "memory.max_usage_in_bytes",
        folder / "memory.usage_in_bytes",
    )


def _bytes(file: Path) -> int | None:
    """None: no limit ("max" is no number), or no such file."""
    with contextlib.suppress(OSError, ValueError):
        size_bytes = int(file.read_text())
        return size_bytes if size_bytes < _UNLIMITED_BYTES else None
    return None


def _gib(file: Path) -> str:
    size_bytes = _bytes(file)
    return "" if size_bytes is None else f"{size_bytes / 2**30:.1f} GiB"
