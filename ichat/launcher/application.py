"""Applies the changes of a configuration to the fleet, one model after the other; each fails, or not, alone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any, Protocol

from ichat.config.schema import Model, Settings
from ichat.errors import IchatError
from ichat.launcher.changes import Change
from ichat.launcher.fleet import Fleet
from ichat.launcher.report import Report
from ichat.launcher.rollout import Rollout
from ichat.launcher.scaling import Addition, Scaling, Work
from ichat.launcher.status import ModelInfo

log = logging.getLogger(__name__)


#: The turn of one model, by its name.
Turn = Callable[[str], AbstractAsyncContextManager[None]]
_SUPERSEDED = "a newer reload describes it otherwise"


class Configurable(Protocol):
    """What a reload changes of the front while it serves."""

    def configure(self, settings: Settings) -> None: ...


class Application:
    """``on_settings`` are called with the settings whenever others hold."""

    def __init__(self, fleet: Fleet, front: Configurable) -> None:
        self._fleet, self._board, self._front = fleet, fleet.board, front
        self.on_settings: list[Callable[[Settings], None]] = []
        self._newer: Settings | None = None  # those of the reload that waits for this one
        self._at_work: dict[str, Model] = {}  # by its name: what a model is being made to be

    @property
    def settings(self) -> Settings:
        """Those that hold."""
        return self._fleet.settings

    async def apply(self, found: list[Change], new: Settings, report: Report, turn: Turn) -> None:
        """Make every change, as far as it can be made; the report says what was, and what was not.

        ``turn`` gives each model's own; in it nobody else changes that model.
        """
        self._newer = None
        self._adopt_sections(new, found, report)
        self._fleet.placement.target = new
        for change in self._givers_first(found, new):
            async with turn(change.model):
                await self._make_one(change, by_name(new).get(change.model), report)
        self._fleet.placement.target = self.settings

    async def _make_one(self, change: Change, model: Model | None, report: Report) -> None:
        if self._newer is not None and by_name(self._newer).get(change.model) != model:
            report.failures[change.subject] = f"{change.model}: {_SUPERSEDED}, nothing was changed."
        elif model is None:
            await self._remove(change.model)
            report.done.append(change)
        else:
            await self._change(change, model, report)

    def supersede(self, newer: Settings) -> None:
        """A reload with these waits: what they describe otherwise is not begun any more, or given up."""
        self._newer = newer
        for name, wanted in self._at_work.items():
            if by_name(newer).get(name) != wanted:
                self._fleet.give_up(name, _SUPERSEDED)

    async def restart(self, model: Model, report: Report) -> None:
        """In the model's turn."""
        await self._make(
            report, Change(f"models.{model.name}", "restart", "by command"), Rollout(self._fleet, model, model), model
        )

    def _adopt_sections(self, new: Settings, found: list[Change], report: Report) -> None:
        """All but the models; what only a start can change keeps its old value."""
        pending = {change.subject for change in found if change.kind == "container"}
        settings = _with_old(self.settings, new, pending)
        for change in found:
            if change.kind == "container":
                log.warning("reload: %s (%s) needs a restart of ichat", change.subject, change.why)
                report.pending.append(change)
            elif not change.subject.startswith("models."):
                report.done.append(change)
        self._take(settings.model_copy(update={"models": self.settings.models}))
        self._front.configure(self.settings)
        with self._board.at_once():
            for model in self.settings.models:
                self._post(model)

    def _givers_first(self, found: list[Change], new: Settings) -> list[Change]:
        """The changes of models: those that give names, memory or GPUs away before those that take them."""
        models = [change for change in found if change.subject.startswith("models.")]
        taken = {name for change in models if (model := by_name(new).get(change.model)) for name in model.served_names}

        def turn(change: Change) -> tuple[bool, bool, bool]:
            old, model = by_name(self.settings).get(change.model), by_name(new).get(change.model)
            lost = set(old.served_names if old else ()) - set(model.served_names if model else ())
            shrinks = (
                old is not None and model is not None and change.kind == "scale" and model.instances < old.instances
            )
            return change.kind != "remove", not shrinks, not lost & taken

        return sorted(models, key=turn)

    async def _change(self, change: Change, model: Model, report: Report) -> None:
        if (holder := self._holder_of(model)) is not None:
            name, other = holder
            report.failures[change.subject] = (
                f"{model.name}: the name {name} is still served by {other}. Give it up there first, then reload again."
            )
            return
        old = by_name(self.settings).get(change.model)
        if old is None:
            await self._make(report, change, Addition(self._fleet, model), model)
        elif change.kind == "restart":
            await self._make(report, change, Rollout(self._fleet, old, model), model)
        else:
            await self._change_hot(change, old, model, report)

    async def _change_hot(self, change: Change, old: Model, model: Model, report: Report) -> None:
        """What needs no process holds at once, also when instances that are to come do not get ready."""
        hot = model.model_copy(update={"instances": old.instances, "gpus": old.gpus})
        self._take(self.settings, hot)
        self._post(hot)
        if hot != old:
            report.done.append(replace(change, kind="hot"))
        if hot != model:
            await self._make(report, replace(change, kind="scale"), Scaling(self._fleet, model), model)

    def _holder_of(self, model: Model) -> tuple[str, str] | None:
        """(name, model) of a name that another model has now."""
        for other in self.settings.models:
            for name in other.served_names if other.name != model.name else ():
                if name in model.served_names:
                    return name, other.name
        return None

    async def _make(self, report: Report, change: Change, work: Work, model: Model) -> None:
        """Do the work for one model; when it fails the others are not touched."""
        log.info("reload: %s: %s (%s)", change.subject, change.kind, change.why)
        self._at_work[model.name] = model
        try:
            await work.run()
        except IchatError as error:
            log.error("reload: %s: %s", change.subject, error)
            report.failures[change.subject] = str(error)
            return
        finally:
            del self._at_work[model.name]
            self._fleet.accept(model.name)
        self._take(self.settings, model)
        report.done.append(change)

    async def _remove(self, model: str) -> None:
        """Nobody finds it from now on; what it has begun is finished."""
        self._board.remove_model(model)
        remaining = tuple(one for one in self.settings.models if one.name != model)
        self._take(self.settings.model_copy(update={"models": remaining}))
        await asyncio.gather(*(self._fleet.retire(member) for member in self._fleet.of(model)))

    def _post(self, model: Model) -> None:
        self._board.post_model(ModelInfo.of(model, self.settings.timeouts))

    def _take(self, settings: Settings, model: Model | None = None) -> None:
        """These hold from now on, with ``model`` in the place of its namesake."""
        if model is not None:
            models = {one.name: one for one in settings.models} | {model.name: model}
            settings = settings.model_copy(update={"models": tuple(models.values())})
        self._fleet.adopt(settings, {} if model is None else {model.name: model})
        for listener in self.on_settings:
            listener(settings)


def by_name(settings: Settings) -> dict[str, Model]:
    return {model.name: model for model in settings.models}


def _with_old(old: Any, new: Any, paths: set[str]) -> Any:
    """``new`` with the old values at these dotted paths."""
    update: dict[str, Any] = {}
    for path in paths:
        head, _, rest = path.partition(".")
        if rest:
            inner = {one.partition(".")[2] for one in paths if one.startswith(f"{head}.")}
            update[head] = _with_old(getattr(old, head), getattr(new, head), inner)
        else:
            update[head] = getattr(old, head)
    return new.model_copy(update=update)
