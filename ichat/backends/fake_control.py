"""Commands to the fake engine: the same effects as on the real ones, as far as a client can see them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Protocol

from ichat.backends.engine_control import EngineControl, Mode, NotSupportedError, RefusedError, Tag

_POLL_S = 0.01


class Obedience(Protocol):
    """What the script says about commands."""

    @property
    def command_s(self) -> float: ...
    @property
    def not_supported(self) -> Collection[str]: ...
    @property
    def fails_at(self) -> Collection[str]: ...


class FakeControl(EngineControl):
    """``model`` is the served name, ``running`` counts the answers that have begun."""

    def __init__(self, model: str, script: Obedience, running: Callable[[], int]) -> None:
        self._model, self._script, self._running = model, script, running
        self._goes_on = asyncio.Event()
        self._goes_on.set()
        self._is_held = False  # answers that have begun wait too
        self.weights = ""
        self.aborts = self.flushes = 0
        self._adapters: list[str] = []

    async def wait_to_begin(self) -> None:
        await self._goes_on.wait()

    async def wait_to_go_on(self) -> None:
        if self._is_held:
            await self._goes_on.wait()

    async def _do(self, action: str) -> None:
        if action in self._script.not_supported:
            raise NotSupportedError(f"{action}: the script says that this engine cannot. Take it out of not_supported.")
        await asyncio.sleep(self._script.command_s)
        if action in self._script.fails_at:
            raise RuntimeError(f"the script fails at {action}")

    def check_sleep(self, level: int) -> None:
        if "sleep" in self._script.not_supported:
            raise NotSupportedError(f"sleep: level {level} is not possible, the script says so")

    async def sleep(self, level: int) -> None:
        del level
        await self._do("sleep")

    async def wake_up(self, tags: frozenset[Tag], *, reload_from: str | None) -> None:
        del tags
        await self._do("wake_up")
        self.weights = reload_from or self.weights

    async def pause(self, mode: Mode) -> None:
        self._goes_on.clear()
        self._is_held = mode == "keep"
        self.aborts += mode == "abort"
        while mode != "keep" and self._running():
            await asyncio.sleep(_POLL_S)
        await self._do("pause")

    async def resume(self) -> None:
        await self._do("resume")
        self._is_held = False
        self._goes_on.set()

    async def update_weights(self, path: str) -> None:
        await self._do("update_weights")
        self.weights = path

    async def flush_cache(self) -> None:
        await self._do("flush_cache")
        self.flushes += 1

    async def start_profile(self, path: str | None, prefix: str | None) -> str:
        del prefix
        await self._do("start_profile")
        return path or ""

    async def stop_profile(self) -> None:
        await self._do("stop_profile")

    async def load_lora(self, name: str, path: str) -> None:
        del path
        await self._do("load_lora")
        if self._full(name) in self._adapters:
            raise RefusedError(f"load_lora: {name} is loaded already. Unload it first.")
        self._adapters.append(self._full(name))

    async def unload_lora(self, name: str) -> None:
        await self._do("unload_lora")
        if self._full(name) not in self._adapters:
            raise RefusedError(f"unload_lora: {name} is not loaded.")
        self._adapters.remove(self._full(name))

    def adapters(self) -> list[str]:
        return list(self._adapters)

    async def set_log_level(self, level: str) -> list[str]:
        del level
        await self._do("log_level")
        return []

    def _full(self, name: str) -> str:
        return f"{self._model}:{name}"
