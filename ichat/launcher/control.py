"""What can be commanded of this launcher: by the admin port, by the probe socket, by signals (see ``controls``)."""

from __future__ import annotations

import asyncio
from typing import Any

from ichat.config.report import render_settings
from ichat.launcher.board import Board
from ichat.launcher.controls import CommandOutcome, ControlError
from ichat.launcher.fleet import Fleet, Member
from ichat.launcher.fronts import Fronts
from ichat.launcher.reload import Reloader
from ichat.observe import logs

_LEVELS = ("debug", "info", "warning", "error")


class Control:
    """Implements ``controls.Controls``."""

    def __init__(self, board: Board, fleet: Fleet, reloader: Reloader, fronts: Fronts) -> None:
        self._board, self._fleet, self._reloader, self._fronts = board, fleet, reloader, fronts

    def status(self) -> dict[str, Any]:
        reloader = self._reloader
        return self._board.status() | {"generation": reloader.generation, "reload_error": reloader.error}

    def describe_config(self) -> dict[str, Any]:
        reloader = self._reloader
        shown = render_settings(reloader.settings, reloader.hidden)
        return {"generation": reloader.generation, "error": reloader.error, "config": shown}

    async def plan(self) -> dict[str, Any]:
        return await self._reloader.plan()

    async def reload(self) -> dict[str, Any]:
        return (await self._reloader.reload()).as_dict()

    async def restart(self, model: str) -> dict[str, Any]:
        return (await self._reloader.restart(self._model(model))).as_dict()

    async def drain(self, model: str, instance: str | None) -> dict[str, Any]:
        members = self._members(model, instance)
        found = await self._reloader.drain(members[0].model.name, instance, is_out=True)
        return {"drained": found.done, "unfinished": found.unfinished}

    async def undrain(self, model: str, instance: str | None) -> dict[str, Any]:
        members = self._members(model, instance)
        found = await self._reloader.drain(members[0].model.name, instance, is_out=False)
        return {"undrained": found.done}

    async def command(
        self, model: str, instance: str | None, action: str, arguments: dict[str, Any]
    ) -> list[CommandOutcome]:
        limit_s = self._reloader.settings.timeouts.control_s

        async def ask(member: Member) -> CommandOutcome:
            done = await member.instance.commands.ask(action, arguments, limit_s)
            return CommandOutcome(member.name, done.status, done.body)

        return list(await asyncio.gather(*map(ask, self._members(model, instance))))

    def log_level(self) -> dict[str, Any]:
        return {"level": logs.level()}

    async def set_log_level(self, level: str) -> dict[str, Any]:
        if level not in _LEVELS:
            raise ControlError(400, "invalid_level", f'level: expected {", ".join(_LEVELS)}, found "{level}".')
        logs.set_level(level)
        self._fronts.set_log_level(level)
        return self.log_level()

    # ---- finding ----------------------------------------------------------------------------------------------

    def _model(self, name: str) -> str:
        """The model that has, or is served under, this name."""
        for model in self._reloader.settings.models:
            if name == model.name or name in model.served_names:
                return model.name
        known = ", ".join(model.name for model in self._reloader.settings.models)
        raise ControlError(404, "model_not_found", f"model '{name}': there is no such model. There are: {known}.")

    def _members(self, model: str, instance: str | None) -> list[Member]:
        there = self._fleet.of(self._model(model))
        found = [member for member in there if instance in (None, member.name)]
        if not found:
            known = ", ".join(member.name for member in there) or "none"
            raise ControlError(404, "instance_not_found", f"instance '{instance}': unknown. There are: {known}.")
        return found
