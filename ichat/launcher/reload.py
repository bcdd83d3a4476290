"""From the settings that hold to those of the configuration files, touching only what differs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from ichat.config.resolve import Resolved
from ichat.config.schema import Model, Settings
from ichat.errors import IchatError, TemporaryError
from ichat.launcher import changes
from ichat.launcher.board import Board
from ichat.launcher.changes import Change
from ichat.launcher.fleet import Fleet
from ichat.launcher.rollout import Rollout, choose
from ichat.launcher.scaling import Addition, Scaling, Work
from ichat.launcher.status import ModelInfo

log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Configurable(Protocol):
    """What a reload changes of the front while it serves."""

    def configure(self, settings: Settings) -> None: ...


@dataclass
class Report:
    """What one reload did. ``failures`` are words by subject; what failed is as it was before."""

    generation: int
    done: list[Change] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    pending: list[Change] = field(default_factory=list)  # only another start of ichat brings them
    cut_off: list[str] = field(default_factory=list)  # models of which requests had to be cut off
    took_s: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        return {
            "generation": self.generation,
            "done": [vars(change) for change in self.done],
            "failed": self.failures,
            "needs_restart_of_ichat": [vars(change) for change in self.pending],
            "cut_off": self.cut_off,
            "took_s": round(self.took_s, 3),
        }


class Reloader:
    """One operation at a time: a reload that is asked for while another one runs comes after it, with all who asked.

    ``load`` reads and checks the configuration (it may block, and raises IchatError with all that is wrong);
    ``check`` raises IchatError where this machine cannot serve a model.
    """

    def __init__(
        self, fleet: Fleet, front: Configurable, load: Callable[[], Resolved], check: Callable[[Model], None]
    ) -> None:
        self._fleet, self._front, self._load, self._check = fleet, front, load, check
        self._board: Board = fleet.board
        self._lock = asyncio.Lock()
        self._waiting: asyncio.Task[Report] | None = None  # its turn has not come yet
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_closed = False
        self.generation = 1
        self.hidden: frozenset[str] = frozenset()  # see Resolved
        self.error: str | None = None  # of the last reload
        self.on_settings: list[Callable[[Settings], None]] = []

    @property
    def settings(self) -> Settings:
        """Those that hold."""
        return self._fleet.settings

    # ---- what may be asked ------------------------------------------------------------------------------------

    async def plan(self) -> dict[str, Any]:
        """What a reload would do now, and why. ConfigError: the configuration is wrong."""
        resolved = await asyncio.to_thread(self._load)
        new = resolved.settings
        found = changes.compare(self.settings, new, self.hidden | resolved.hidden)
        changed = {change.subject for change in found}
        same = [f"models.{model.name}" for model in new.models if f"models.{model.name}" not in changed]
        return {
            "generation": self.generation,
            "changes": [await self._describe(change, new) for change in found],
            "unchanged": same,
        }

    async def reload(self) -> Report:
        """IchatError: nothing was changed. Else the report says what was, and what failed and is as before."""
        if self._waiting is None:
            self._waiting = self._begin(self._reload_in_turn(), "reload")
        return await self._end_of(self._waiting)

    async def restart(self, model: str) -> Report:
        """Replace every instance of the model, one by one."""
        return await self._end_of(self._begin(self._restart_in_turn(model), f"restart {model}"))

    async def drain(self, model: str, instance: str | None, *, is_out: bool) -> list[str]:
        """Take instances out of the routes and wait until they hold no request; or put them back. Their names."""
        return await self._end_of(self._begin(self._drain_in_turn(model, instance, is_out), f"drain {model}"))

    async def close(self) -> None:
        """Stop whatever is going on; what it had begun is left to the shutdown."""
        self._is_closed = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _begin(self, work: Coroutine[Any, Any, _T], name: str) -> asyncio.Task[_T]:
        """It goes on to its end whether or not somebody still waits for it."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    @staticmethod
    async def _end_of(task: asyncio.Task[_T]) -> _T:
        await asyncio.wait({task})
        if task.cancelled():
            raise _leaving()
        return task.result()

    # ---- other operations -------------------------------------------------------------------------------------

    async def _restart_in_turn(self, model: str) -> Report:
        async with self._lock:
            self._refuse_when_leaving()
            same = _by_name(self.settings)[model]
            report, began = Report(self.generation), time.monotonic()
            change = Change(f"models.{model}", "restart", "by command")
            await self._make(report, change, Rollout(self._fleet, same, same))
            report.took_s = time.monotonic() - began
            return report

    async def _drain_in_turn(self, model: str, instance: str | None, is_out: bool) -> list[str]:
        async with self._lock:
            self._refuse_when_leaving()
            members = [one for one in self._fleet.of(model) if instance in (None, one.name)]
            if is_out:
                await asyncio.gather(*(self._fleet.drain(one) for one in members))
            else:
                for one in members:
                    one.instance.take_out(is_out=False)
            return [one.name for one in members]

    # ---- a reload ---------------------------------------------------------------------------------------------

    async def _reload_in_turn(self) -> Report:
        async with self._lock:
            self._waiting = None  # who asks from now on may have seen a newer file than the one that is read now
            try:
                return await self._reload()
            except IchatError as error:
                self.error = str(error)
                log.error("reload: nothing was changed: %s", error)
                raise

    async def _reload(self) -> Report:
        self._refuse_when_leaving()
        began = time.monotonic()
        resolved = await asyncio.to_thread(self._load)
        new = resolved.settings
        found = changes.compare(self.settings, new, self.hidden | resolved.hidden)
        for change in found:
            if change.kind in ("add", "restart"):
                self._check(_by_name(new)[change.model])
        report = Report(self.generation)
        if not found:
            self.error = None
            log.info("reload: nothing has changed")
            return report
        for notice in resolved.notices:
            log.warning("%s", notice)
        self.generation += 1
        report.generation = self.generation
        self.hidden |= resolved.hidden
        self._adopt_sections(new, found, report)
        for change in found:
            if change.subject.startswith("models."):
                await self._apply(change, new, report)
        report.took_s = time.monotonic() - began
        self.error = "; ".join(report.failures.values()) or None
        log.info(
            "reload: done generation=%d changed=%d failed=%d took_s=%.1f",
            report.generation,
            len(report.done),
            len(report.failures),
            report.took_s,
        )
        return report

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

    async def _apply(self, change: Change, new: Settings, report: Report) -> None:
        old = _by_name(self.settings).get(change.model)
        model = _by_name(new).get(change.model)
        if model is None:
            await self._remove(change.model)
            report.done.append(change)
        elif old is None:
            await self._make(report, change, Addition(self._fleet, model), model)
        elif change.kind == "restart":
            await self._make(report, change, Rollout(self._fleet, old, model), model)
        else:
            self._take(self.settings, model.model_copy(update={"instances": old.instances, "gpus": old.gpus}))
            self._board.post_model(ModelInfo.of(model, self.settings.timeouts))
            await self._make(report, change, Scaling(self._fleet, model), model)

    async def _make(self, report: Report, change: Change, work: Work, model: Model | None = None) -> None:
        """Do the work for one model; when it fails the model is as it was, and the others are not touched."""
        log.info("reload: %s: %s (%s)", change.subject, change.kind, change.why)
        try:
            await work.run()
        except IchatError as error:
            log.error("reload: %s: %s", change.subject, error)
            report.failures[change.subject] = str(error)
            return
        if model is not None:
            self._take(self.settings, model)
        report.done.append(change)
        if not work.was_whole:
            report.cut_off.append(change.model)

    async def _remove(self, model: str) -> None:
        """Nobody finds it from now on; what it has begun is finished."""
        self._board.remove_model(model)
        remaining = tuple(one for one in self.settings.models if one.name != model)
        self._take(self.settings.model_copy(update={"models": remaining}))
        await asyncio.gather(*(self._fleet.retire(member) for member in self._fleet.of(model)))

    def _take(self, settings: Settings, model: Model | None = None) -> None:
        """These hold from now on, with ``model`` in the place of its namesake."""
        if model is not None:
            models = {one.name: one for one in settings.models} | {model.name: model}
            settings = settings.model_copy(update={"models": tuple(models.values())})
        self._fleet.adopt(settings, {} if model is None else {model.name: model})
        for listener in self.on_settings:
            listener(settings)

    async def _describe(self, change: Change, new: Settings) -> dict[str, Any]:
        described: dict[str, Any] = dict(vars(change))
        members = self._fleet.of(change.model) if change.kind == "restart" else []
        if members:
            choice = await choose(self._fleet, members[0], _by_name(new)[change.model])
            described["rollout"] = f"{choice.way} ({choice.why})"
        return described

    def _refuse_when_leaving(self) -> None:
        if self._board.is_leaving or self._is_closed:
            raise _leaving()


def _leaving() -> TemporaryError:
    return TemporaryError("ichat: is shutting down, nothing is changed any more.", code="E-LEAVING")


def _by_name(settings: Settings) -> dict[str, Model]:
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
