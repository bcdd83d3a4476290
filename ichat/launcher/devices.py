"""Which GPUs there are, which instance gets which of them, and whose turn it is to start on one."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ichat.config.schema import Model
from ichat.errors import ResourceError

_VARIABLE = "CUDA_VISIBLE_DEVICES"
_DEVICE = re.compile(r"nvidia\d+")


def visible_gpus(environ: Mapping[str, str], dev: Path = Path("/dev")) -> tuple[str, ...]:
    """The ids of the GPUs that ichat may give away: those of CUDA_VISIBLE_DEVICES, else every NVIDIA device, by number.

    Where the driver shows no device files (WSL) there is one.
    """
    if (said := environ.get(_VARIABLE)) is not None:
        return tuple(filter(None, map(str.strip, said.split(","))))
    count = sum(1 for entry in dev.glob("nvidia*") if _DEVICE.fullmatch(entry.name))
    return tuple(map(str, range(count or (1 if (dev / "dxg").exists() else 0))))


def gpus_needed(model: Model) -> int:
    """Of one instance: as many as it says, else one for each rank."""
    if isinstance(model.gpus, int):
        return model.gpus
    ranks = (model.tensor_parallel_size or 1) * (model.pipeline_parallel_size or 1) * (model.data_parallel_size or 1)
    return ranks // (model.nnodes or 1) or 1


def listed_gpus(model: Model, slot: int) -> tuple[str, ...] | None:
    """The GPUs that the configuration names for the instance in this slot; None: it leaves the choice to us."""
    if model.gpus is None or isinstance(model.gpus, int):
        return None
    return tuple(str(gpu) for gpu in model.gpus[slot])


def choose_gpus(model: Model, slot: int, visible: Iterable[str], taken: Iterable[str]) -> tuple[str, ...]:
    """The GPUs of a new instance: those that are named for it, else the first that nobody has.

    ResourceError: there are not enough. ``taken`` are those of all other instances, and all that are named for any.
    """
    if (listed := listed_gpus(model, slot)) is not None:
        return listed
    needed, taken = gpus_needed(model), set(taken)
    visible = list(visible)
    free = [gpu for gpu in visible if gpu not in taken]
    if len(free) < needed:
        raise ResourceError(
            f"{model.name}/{slot}: needs {needed} GPU{'s' if needed > 1 else ''}, and of {len(visible)} that are"
            f" visible {len(free)} are free. Lower instances or gpus, or share GPUs: name them under gpus, with"
            " memory_fraction for each model.",
            code="E-GPU-MISSING",
        )
    return tuple(free[:needed])


class Turns:
    """One start at a time on each device: an engine measures what memory is free while it starts.

    Two that start together would each count the other's memory as its own.
    """

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}

    def of(self, devices: Iterable[str], on_wait: Callable[[], None]) -> Turn:
        """``on_wait`` is called when another one starts on one of the devices."""
        return Turn([self._locks.setdefault(device, asyncio.Lock()) for device in sorted(set(devices))], on_wait)


class Turn:
    """The right to start on some devices. ``end`` gives it back; harmless when repeated, or before it came."""

    def __init__(self, locks: list[asyncio.Lock], on_wait: Callable[[], None] = lambda: None) -> None:
        self._locks, self._on_wait = locks, on_wait
        self._held: list[asyncio.Lock] = []

    async def begin(self) -> None:
        """Wait for it. Always in one order, so that no two wait for each other."""
        if any(lock.locked() for lock in self._locks):
            self._on_wait()
        for lock in self._locks:
            await lock.acquire()
            self._held.append(lock)

    def end(self) -> None:
        while self._held:
            self._held.pop().release()
