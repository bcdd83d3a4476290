"""A launcher that a test plays behind the admin port."""

from __future__ import annotations

import asyncio
from typing import Any

from ichat.launcher.controls import CommandOutcome, ControlError


class FakeControls:
    """Knows the model `qwen` (also `Qwen/Qwen2.5:7b`) with two instances; writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.raises: dict[str, Exception] = {}
        self.takes_s: dict[str, float] = {}
        self.outcomes: list[CommandOutcome] | None = None
        self.finished: list[str] = []
        self.level = "info"

    async def _do(self, what: str, *details: Any) -> dict[str, Any]:
        self.told.append((what, *details))
        await asyncio.sleep(self.takes_s.get(what, 0))
        if what in self.raises:
            raise self.raises[what]
        self.finished.append(what)
        return {"did": what}

    def _find(self, model: str, instance: str | None) -> list[str]:
        if model not in ("qwen", "Qwen/Qwen2.5:7b"):
            raise ControlError(404, "model_not_found", f"model '{model}': there is no such model. There are: qwen.")
        there = ["qwen/0", "qwen/1"]
        if instance not in (None, *there):
            raise ControlError(404, "instance_not_found", f"instance '{instance}': unknown. There are: qwen/0, qwen/1.")
        return there if instance is None else [instance]

    def status(self) -> dict[str, Any]:
        return {"ready": True, "instances": []}

    def describe_config(self) -> dict[str, Any]:
        return {"generation": 3, "error": None, "config": {"admin": {"token": "***"}}}

    async def plan(self) -> dict[str, Any]:
        return await self._do("plan")

    async def reload(self) -> dict[str, Any]:
        return await self._do("reload")

    async def restart(self, model: str) -> dict[str, Any]:
        self._find(model, None)
        return await self._do("restart", model)

    async def drain(self, model: str, instance: str | None) -> dict[str, Any]:
        return await self._do("drain", model, *self._find(model, instance))

    async def undrain(self, model: str, instance: str | None) -> dict[str, Any]:
        return await self._do("undrain", model, *self._find(model, instance))

    async def command(
        self, model: str, instance: str | None, action: str, arguments: dict[str, Any]
    ) -> list[CommandOutcome]:
        names = self._find(model, instance)
        await self._do("command", model, names, action, arguments)
        return self.outcomes or [CommandOutcome(name, 200, {"state": "ready"}) for name in names]

    def log_level(self) -> dict[str, Any]:
        return {"level": self.level}

    async def set_log_level(self, level: str) -> dict[str, Any]:
        self.level = level
        return self.log_level()
