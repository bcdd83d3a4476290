"""One operation on the fleet at a time: reload, restart, drain, each to its end or refused before anything changed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from ichat.config.resolve import Resolved
from ichat.config.schema import Model, Settings
from ichat.errors import ConfigError, IchatError, Problem, TemporaryError
from ichat.launcher import changes
from ichat.launcher.application import Application, Configurable, by_name
from ichat.launcher.board import Board
from ichat.launcher.changes import Change
from ichat.launcher.fleet import Fleet
from ichat.launcher.report import Report
from ichat.launcher.rollout import choose
from ichat.launcher.scaling import RolloutError

log = logging.getLogger(__name__)
_T = TypeVar("_T")
#: An empty file is a valid one: it means the demo model. A file that is written in place is empty for a moment.
_NO_MODELS = "names no models, and these are served: %s. Name them; to serve the demo model instead, start ichat again."


@dataclass(frozen=True)
class Drained:
    """The instances that were taken out of the routes; ``unfinished`` still have requests."""

    done: list[str]
    unfinished: list[str]


class Reloader:
    """A reload that is asked for while another one runs comes after it, with all who asked.

    ``load`` reads and checks the configuration (it may block, and raises IchatError with all that is wrong);
    ``check`` raises IchatError where this machine cannot serve a model.
    """

    def __init__(
        self, fleet: Fleet, front: Configurable, load: Callable[[], Resolved], check: Callable[[Model], None]
    ) -> None:
        self._fleet, self._load, self._check = fleet, load, check
        self._application = Application(fleet, front)
        self._board: Board = fleet.board
        self._lock = asyncio.Lock()
        self._waiting: asyncio.Task[Report] | None = None  # its turn has not come yet
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_closed = False
        self.generation = 1
        self.hidden: frozenset[str] = frozenset()  # see Resolved
        self.names_models = False  # see Resolved
        self.error: str | None = None  # of the last reload

    @property
    def settings(self) -> Settings:
        """Those that hold."""
        return self._fleet.settings

    def listen(self, listener: Callable[[Settings], None]) -> None:
        """Call it whenever other settings hold."""
        self._application.on_settings.append(listener)

    # ---- what may be asked ------------------------------------------------------------------------------------

    async def plan(self) -> dict[str, Any]:
        """What a reload would do now, and why. ConfigError: the configuration is wrong."""
        resolved = await self._read()
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
        """IchatError: nothing was changed. Else the report says what was, and what failed."""
        if self._waiting is None:
            self._waiting = self._begin(self._reload_in_turn(), "reload")
        return await self._end_of(self._waiting)

    async def restart(self, model: str) -> Report:
        """Replace every instance of the model, one by one."""
        return await self._end_of(self._begin(self._restart_in_turn(model), f"restart {model}"))

    async def drain(self, model: str, instance: str | None, *, is_out: bool) -> Drained:
        """Take instances out of the routes and wait, for their drain_s at most, until they hold no request; or put
        them back.
        """
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

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        async with self._lock:
            if self._board.is_leaving or self._is_closed:
                raise _leaving()
            self._fleet.is_in_work = True
            try:
                yield
            finally:
                self._fleet.is_in_work = False
                if not self._is_closed:
                    self._fleet.settle()

    async def _read(self) -> Resolved:
        """ConfigError: it is wrong, or it looks like a file that somebody is still writing."""
        resolved = await asyncio.to_thread(self._load)
        if self.names_models and not resolved.names_models:
            served = ", ".join(model.name for model in self.settings.models)
            document = resolved.sources.document
            raise ConfigError(
                [Problem("E-CFG-NO-MODELS", "" if document is None else document.name, _NO_MODELS % served)]
            )
        return resolved

    # ---- one operation ----------------------------------------------------------------------------------------

    async def _restart_in_turn(self, model: str) -> Report:
        async with self._turn():
            there = by_name(self.settings).get(model)
            if there is None:
                raise RolloutError(f"{model}: is not served any more.")
            report, began = Report(self.generation), time.monotonic()
            await self._application.restart(there, report)
            return self._finish(report, began)

    async def _drain_in_turn(self, model: str, instance: str | None, is_out: bool) -> Drained:
        async with self._turn():
            members = [one for one in self._fleet.of(model) if instance in (None, one.name)]
            if not is_out:
                for one in members:
                    one.instance.take_out(is_out=False)
                return Drained([one.name for one in members], [])
            ends = await asyncio.gather(*(self._fleet.drain(one) for one in members))
            pairs = list(zip(members, ends, strict=True))
            return Drained([one.name for one, is_done in pairs if is_done], [one.name for one, ok in pairs if not ok])

    async def _reload_in_turn(self) -> Report:
        try:
            async with self._turn():
                self._waiting = None  # who asks from now on may have seen a newer file than the one that is read now
                return await self._reload()
        except IchatError as error:
            self._waiting = None
            self.error = str(error)
            log.error("reload: nothing was changed: %s", error)
            raise

    async def _reload(self) -> Report:
        began = time.monotonic()
        resolved = await self._read()
        new = resolved.settings
        found = changes.compare(self.settings, new, self.hidden | resolved.hidden)
        for change in found:
            if change.kind in ("add", "restart"):
                self._check(by_name(new)[change.model])
        for notice in resolved.notices if found else ():
            log.warning("%s", notice)
        if any(change.kind != "container" for change in found):
            self.generation += 1
        self.hidden |= resolved.hidden
        self.names_models = resolved.names_models
        report = Report(self.generation)
        await self._application.apply(found, new, report)
        self.error = "; ".join(report.failures.values()) or None
        self._finish(report, began)
        counts = (report.generation, len(report.done), len(report.failures), report.took_s)
        log.info("reload: done generation=%d changed=%d failed=%d took_s=%.1f", *counts)
        return report

    def _finish(self, report: Report, began: float) -> Report:
        report.took_s = time.monotonic() - began
        report.cut_off, self._fleet.cut_off = self._fleet.cut_off, []
        return report

    async def _describe(self, change: Change, new: Settings) -> dict[str, Any]:
        described: dict[str, Any] = dict(vars(change))
        members = self._fleet.of(change.model) if change.kind == "restart" else []
        if members:
            model = by_name(new)[change.model]
            is_at_once = changes.renames(members[0].model, model)
            old, count = (members, model.instances) if is_at_once else (members[:1], 1)
            choice = await choose(self._fleet, old, model, count)
            described["rollout"] = f"{choice.way} ({choice.why})"
        return described


def _leaving() -> TemporaryError:
    return TemporaryError("ichat: is shutting down, nothing is changed any more.", code="E-LEAVING")
