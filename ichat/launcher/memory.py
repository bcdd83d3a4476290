"""How much memory is free, on the host or on GPUs, and how much an instance takes: whether another fits beside it."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ichat.errors import TemporaryError
from ichat.launcher.aside import Aside
from ichat.launcher.memory_limit import MemoryLimit
from ichat.system import process_table

_QUERY = ("nvidia-smi", "--query-gpu=index,uuid,memory.free,memory.total", "--format=csv,noheader,nounits")
_QUERY_S = 5.0
#: Looking at every page of a large model takes the kernel a second.
_LIMIT_S = 30.0
#: What the engines take of a GPU when nobody says otherwise.
_DEFAULT_FRACTION = 0.9
#: A second instance is given so much more than the first one has now: it is at its largest while it loads.
_MARGIN = 1.2


@dataclass(frozen=True)
class Verdict:
    """``why`` is for people, with the figures."""

    fits: bool
    why: str


def fits_host(pid: int, count: int = 1) -> Verdict:
    """Whether so many more process trees as large as that of ``pid`` fit into the memory of this host or container.

    It may take a second for a large model: the kernel looks at every page.
    """
    needed, free = int(_tree_bytes(pid) * _MARGIN) * count, free_bytes()
    who = "another instance needs" if count == 1 else f"{count} more instances need"
    return Verdict(free >= needed, f"{_gib(free)} of memory are free, {who} about {_gib(needed)}")


async def told(measurements: Aside, measure: Callable[[], Verdict]) -> Verdict:
    """What ``measure`` finds; what it cannot find out, because the kernel or the driver hangs, does not fit."""
    try:
        async with asyncio.timeout(_LIMIT_S):
            return await measurements.run(measure)
    except (OSError, TemporaryError) as error:  # a TimeoutError is an OSError
        return Verdict(False, f"free memory cannot be found out ({error or f'no answer within {_LIMIT_S:.0f} s'})")


def fits_gpus(gpus: Sequence[str], memory_fraction: float | None) -> Verdict:
    """Whether another instance fits on these GPUs beside what is there (all visible ones when none are named)."""
    fraction = memory_fraction or _DEFAULT_FRACTION
    found = _ask_driver()
    if found is None:
        return Verdict(False, "nvidia-smi does not tell how much GPU memory is free")
    chosen = [gpu for gpu in found if not gpus or gpu.index in gpus or any(gpu.uuid.startswith(one) for one in gpus)]
    if not chosen:
        return Verdict(False, f"nvidia-smi does not know GPU {', '.join(gpus)}")
    tightest = min(chosen, key=lambda gpu: gpu.free / gpu.total)
    needed = int(tightest.total * fraction)
    why = f"GPU {tightest.index} has {_gib(tightest.free)} free, another instance takes {_gib(needed)}"
    return Verdict(tightest.free >= needed, why)


def free_bytes() -> int:
    """Of the host, or what the container's limit leaves."""
    limits = [free for free in (_free_of_host(), MemoryLimit().free_bytes()) if free is not None]
    return min(limits, default=0)


def _free_of_host() -> int | None:
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _tree_bytes(pid: int) -> int:
    """What the processes from ``pid`` down hold; memory that they share is counted once."""
    return sum(map(_own_bytes, (process.pid for process in process_table.read_below(pid))))


def _own_bytes(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


@dataclass(frozen=True)
class _Gpu:
    index: str
    uuid: str
    free: int
    total: int


def _ask_driver() -> list[_Gpu] | None:
    """None: there is no driver that answers."""
    try:
        # The launcher reaps every child by itself, so that only the output tells whether it went well.
        asked = subprocess.run(_QUERY, capture_output=True, timeout=_QUERY_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_gpus(asked.stdout.decode(errors="replace").splitlines())


def parse_gpus(lines: Iterable[str]) -> list[_Gpu] | None:
    """The lines of nvidia-smi; None where they tell of no GPU."""
    found = []
    for line in lines:
        with contextlib.suppress(ValueError):
            index, uuid, free, total = (field.strip() for field in line.split(","))
            found.append(_Gpu(index, uuid, int(free) << 20, int(total) << 20))
    return found or None


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f} GiB"
