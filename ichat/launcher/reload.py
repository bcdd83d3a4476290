"""Operations on the fleet, one on a model at a time: reload, restart, drain, to its end or refused before a change."""

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
from ichat.launcher.aside import Aside
from ichat.launcher.board import Board
from ichat.launcher.changes import Change
from ichat.launcher.fleet import Fleet
from ichat.launcher.report import Report
from ichat.launcher.rollout import choose
from ichat.launcher.scaling import RolloutError

log = logging.getLogger(__name__)
_T = TypeVar("_T")
#: Reading and checking a configuration takes less, unless a file system hangs.
_LOOK_S = 10.0
#: An empty file is a valid one: it means the demo model. A file that is written in place is empty for a moment.
_NO_MODELS = "names no models, and these are served: %s. Name them; to serve the demo model instead, start ichat again."


@dataclass(frozen=True)
class Drained:
    """The instances that were taken out of the routes; ``unfinished`` still have requests."""

    done: list[str]
    unfinished: list[str]


class Reloader:
    """A reload that is asked for while another one runs comes after it, with all who asked.

    Every model has its turns: a reload that waits for one leaves the others to `restart`, `drain` and `undrain`.

    ``load`` reads and checks the configuration (it may block, and raises IchatError with all that is wrong);
    ``check`` raises IchatError where this machine cannot serve a model.
    """

    def __init__(
        self, fleet: Fleet, front: Configurable, load: Callable[[], Resolved], check: Callable[[Model], None]
    ) -> None:
        self._fleet, self._load, self._check = fleet, load, check
        self._application = Application(fleet, front)
        self._board: Board = fleet.board
        self._reloading = asyncio.Lock()
        self._turns: dict[str, asyncio.Lock] = {}
        self._reads, self._plans = Aside("reading the configuration"), Aside("reading the configuration for a plan")
        self._count = self._began = 0  # reads that have begun; which of them is that of the reload that runs
        self._overtaken: asyncio.Future[Resolved] | None = None  # what a later reader has found before it
        self._looking: asyncio.Task[None] | None = None
        self._is_to_look = False
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
        resolved = await self._read(self._plans)
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
        """IchatError: nothing was changed. Else the report says what was, and what failed.

        It takes over from one that still waits for a file, or for an instance that it describes otherwise.
        """
        if self._waiting is None:
            self._waiting = self._begin(self._reload_in_turn(), "reload")
        if self._reloading.locked():
            self._look_ahead()
        return await self._end_of(self._waiting)

    async def restart(self, model: str) -> Report:
        """Replace every instance of the model, one by one."""
        return await self._end_of(self._begin(self._restart_in_turn(model), f"restart {model}"))

    async def drain(self, model: str, instance: str | None, *, is_out: bool) -> Drained:
        """Take instances out of the routes and wait, for their drain_s at most, until they hold no request; or put
        them back, which ends that wait.
        """
        return await self._end_of(self._begin(self._drain(model, instance, is_out), f"drain {model}"))

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
            raise TemporaryError("ichat: is shutting down, nothing is changed any more.", code="E-LEAVING")
        return task.result()

    @asynccontextmanager
    async def _turn(self, model: str) -> AsyncIterator[None]:
        """Of this model alone: what hangs with one holds up no other."""
        async with self._turns.setdefault(model, asyncio.Lock()):
            self._refuse_when_leaving()
            with self._fleet.work():
                yield

    def _refuse_when_leaving(self) -> None:
        if self._board.is_leaving or self._is_closed:
            raise TemporaryError("ichat: is shutting down, nothing is changed any more.", code="E-LEAVING")

    # ---- reading ----------------------------------------------------------------------------------------------

    async def _read(self, reads: Aside) -> Resolved:
        """ConfigError: it is wrong, or it looks like a file that somebody is still writing."""
        resolved = await reads.run(self._load)
        if self.names_models and not resolved.names_models:
            served = ", ".join(model.name for model in self.settings.models)
            document = resolved.sources.document
            raise ConfigError(
                [Problem("E-CFG-NO-MODELS", "" if document is None else document.name, _NO_MODELS % served)]
            )
        return resolved

    async def _read_latest(self) -> Resolved:
        """What is read now, or by who asks later and is read sooner: a read may hang."""
        self._began = self._begin_read()
        self._overtaken = asyncio.get_running_loop().create_future()
        reading = asyncio.ensure_future(self._read(self._reads))
        try:
            await asyncio.wait({reading, self._overtaken}, return_when=asyncio.FIRST_COMPLETED)
            return reading.result() if reading.done() else self._overtaken.result()
        finally:
            reading.cancel()
            self._overtaken.cancel()

    def _begin_read(self) -> int:
        self._count += 1
        return self._count

    def _look_ahead(self) -> None:
        """Somebody asks while a reload runs: perhaps the file has been mended that it hangs at."""
        self._is_to_look = True
        if self._looking is None or self._looking.done():
            self._looking = self._begin(self._keep_looking(), "look at newer configuration")

    async def _keep_looking(self) -> None:
        while self._is_to_look:
            self._is_to_look = False
            began = self._begin_read()
            try:
                async with asyncio.timeout(_LOOK_S):
                    resolved = await self._read(self._reads)
            except (IchatError, OSError):  # what is wrong is told when its turn has come
                continue
            if began < self._began:  # the reload that runs has read later
                continue
            if self._overtaken is not None and not self._overtaken.done():
                self._overtaken.set_result(resolved)
            else:
                self._application.supersede(resolved.settings)

    # ---- one operation ----------------------------------------------------------------------------------------

    async def _restart_in_turn(self, model: str) -> Report:
        async with self._turn(model):
            there = by_name(self.settings).get(model)
            if there is None:
                raise RolloutError(f"{model}: is not served any more.")
            report, began = Report(self.generation), time.monotonic()
            await self._application.restart(there, report)
            return self._finish(report, began, {model})

    async def _drain(self, model: str, instance: str | None, is_out: bool) -> Drained:
        """The turn is for the change alone: what takes time can be taken back."""
        async with self._turn(model):
            members = [one for one in self._fleet.of(model) if instance in (None, one.name)]
            for one in members:
                one.instance.take_out(is_out=is_out)
        if not is_out:
            return Drained([one.name for one in members], [])
        ends = await asyncio.gather(*(self._fleet.drained(one) for one in members))
        pairs = list(zip(members, ends, strict=True))
        return Drained([one.name for one, is_done in pairs if is_done], [one.name for one, ok in pairs if not ok])

    async def _reload_in_turn(self) -> Report:
        try:
            async with self._reloading:
                self._refuse_when_leaving()
                self._waiting = None  # who asks from now on may have seen a newer file than the one that is read now
                return await self._reload()
        except IchatError as error:
            self._waiting = None
            self.error = str(error)
            log.error("reload: nothing was changed: %s", error)
            raise

    async def _reload(self) -> Report:
        began = time.monotonic()
        resolved = await self._read_latest()
        new = resolved.settings
        found = changes.compare(self.settings, new, self.hidden | resolved.hidden)
        to_start = [by_name(new)[change.model] for change in found if change.kind in ("add", "restart")]
        await self._reads.run(lambda: [self._check(model) for model in to_start])
        for notice in resolved.notices if found else ():
            log.warning("%s", notice)
        if any(change.kind != "container" for change in found):
            self.generation += 1
        self.hidden |= resolved.hidden
        self.names_models = resolved.names_models
        report = Report(self.generation)
        await self._application.apply(found, new, report, self._turn)
        self.error = "; ".join(report.failures.values()) or None
        self._finish(report, began, {change.model for change in found})
        counts = (report.generation, len(report.done), len(report.failures), report.took_s)
        log.info("reload: done generation=%d changed=%d failed=%d took_s=%.1f", *counts)
        return report

    def _finish(self, report: Report, began: float, models: set[str]) -> Report:
        report.took_s = time.monotonic() - began
        report.cut_off = [instance for model, instance in self._fleet.cut_off if model in models]
        self._fleet.cut_off = [one for one in self._fleet.cut_off if one[0] not in models]
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
