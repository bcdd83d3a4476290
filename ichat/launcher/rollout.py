"""How the instances of one model are replaced: one by one, without a lost request, and back again when it fails."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ichat.config.schema import Model
from ichat.errors import IchatError, ResourceError
from ichat.launcher import environment, memory
from ichat.launcher.changes import renames
from ichat.launcher.fleet import Fleet, Member
from ichat.launcher.instance import InstanceSpec
from ichat.launcher.scaling import RolloutError, scale, start_whole
from ichat.launcher.status import ModelInfo

log = logging.getLogger(__name__)

Way = Literal["surge", "hold"]


@dataclass(frozen=True)
class Choice:
    """``way`` and, for people, why."""

    way: Way
    why: str


async def choose(fleet: Fleet, old: Member, model: Model) -> Choice:
    """How ``old`` is to be replaced by an instance of ``model``: as configured, or as memory allows."""
    if model.rollout != "auto":
        return Choice(model.rollout, "as configured")
    pid = fleet.board[old.name].pid
    if pid is None:
        return Choice("hold", "there is no process to serve on beside it")
    if environment.accelerator_of(model) == "cpu":
        verdict = memory.fits_host(pid)
        return Choice("surge" if verdict.fits else "hold", verdict.why)
    try:
        beside = _beside(fleet, old, model)
    except ResourceError:
        return Choice("hold", "no other GPU is free")
    if beside.gpus and not set(beside.gpus) & set(old.spec.gpus):
        return Choice("surge", f"GPU {', '.join(beside.gpus)} is free")
    verdict = await memory.fits_gpus(beside.gpus, model.memory_fraction)
    return Choice("surge" if verdict.fits else "hold", verdict.why)


class Rollout:
    """Replaces the instances of one model by instances of another description of it.

    ``run`` returns when all of them are replaced and serve. RolloutError: one did not get ready; then those that had
    been replaced are replaced back, and the old description holds. Requests are served, or wait, all the time.
    """

    def __init__(self, fleet: Fleet, old: Model, new: Model) -> None:
        self._fleet, self._old, self._new = fleet, old, new
        self._replaced: list[Member] = []
        self._is_restored = True
        self.was_whole = True  # no request had to be cut off
        self.choices: list[Choice] = []

    async def run(self) -> None:
        fleet, new = self._fleet, self._new
        fleet.board.excuse(self._old.name, is_excused=True)
        try:
            if renames(self._old, new):
                await self._at_once()
            else:
                self._announce(new)
                await self._one_by_one()
            await scale(fleet, new)
        except IchatError as error:
            await self._back()
            outcome = "The old configuration serves." if self._is_restored else "The old one does not get ready either."
            raise RolloutError(f"{str(error).rstrip('.')}. {outcome}") from error
        finally:
            self._announce(self._serving(), is_excused=False)

    def _serving(self) -> Model:
        """What the instances of now say."""
        there = self._fleet.of(self._old.name)
        return there[0].model if there else self._old

    def _announce(self, model: Model, *, holds: bool = False, is_excused: bool = True) -> None:
        """Tell the front the names and limits; ``holds``: requests wait longer, since somebody is coming."""
        timeouts = self._fleet.settings.timeouts
        info = ModelInfo.of(model, timeouts)
        hold_s = max(info.hold_s, timeouts.rollout_hold_s) if holds else info.hold_s
        self._fleet.board.post_model(replace(info, hold_s=hold_s, is_excused=is_excused))

    # ---- one by one -------------------------------------------------------------------------------------------

    async def _one_by_one(self) -> None:
        for old in self._fleet.of(self._old.name)[: self._new.instances]:
            choice = self._note(old, await choose(self._fleet, old, self._new))
            self._replaced.append(await self._replace(old, choice.way))

    async def _replace(self, old: Member, way: Way) -> Member:
        if way == "surge":
            new = await self._start(_beside(self._fleet, old, self._new))
            self.was_whole &= await self._fleet.retire(old)
            return new
        self._announce(self._new, holds=True)
        self.was_whole &= await self._fleet.retire(old)
        try:
            return await self._start(self._in_place_of(old))
        except IchatError:
            await self._restore([old.spec])  # nobody serves in its place now
            raise

    # ---- all at once, where old and new answer to different names ---------------------------------------------

    async def _at_once(self) -> None:
        old = self._fleet.of(self._old.name)
        choice = self._note(old[0], await choose(self._fleet, old[0], self._new)) if old else None
        if choice is not None and choice.way == "hold":
            await self._retire_first(old)
        else:
            new = await self._start_all(old, lambda one: _beside(self._fleet, one, self._new))
            self._switch(new, old)
            for one in old:
                self.was_whole &= await self._fleet.retire(one)

    async def _retire_first(self, old: Sequence[Member]) -> None:
        """Requests for the old names wait until the new ones hold, and are told so then."""
        self._announce(self._old, holds=True)
        for one in old:
            self.was_whole &= await self._fleet.retire(one)
        try:
            self._switch(await self._start_all(old, self._in_place_of))
        except IchatError:
            await self._restore([one.spec for one in old])
            raise

    async def _start_all(self, old: Sequence[Member], spec_of: Callable[[Member], InstanceSpec]) -> list[Member]:
        """One for each old one: ready and out of the routes. IchatError: one did not get ready; then none is there."""
        started: list[Member] = []
        try:
            for one in old:
                started.append(await self._start(spec_of(one), is_out=True))
        except BaseException:
            for member in started:
                await self._fleet.remove(member)
            raise
        return started

    def _switch(self, new: Sequence[Member], old: Sequence[Member] = ()) -> None:
        """In one table of routes: no name is ever sent to an instance that does not answer to it."""
        with self._fleet.board.at_once():
            self._announce(self._new)
            for one in old:
                one.instance.take_out(is_out=True)
            for one in new:
                one.instance.take_out(is_out=False)

    # ---- starting ---------------------------------------------------------------------------------------------

    def _in_place_of(self, old: Member) -> InstanceSpec:
        return replace(old.spec, model=self._new, gpus=self._fleet.gpus_after(old, self._new))

    async def _start(self, spec: InstanceSpec, *, is_out: bool = False) -> Member:
        member = self._fleet.add(spec, is_on_trial=True)
        if is_out:
            member.instance.take_out(is_out=True)
        await start_whole(self._fleet, member)
        return member

    # ---- back -------------------------------------------------------------------------------------------------

    async def _restore(self, specs: Sequence[InstanceSpec]) -> None:
        """As it was, and restarted like any other."""
        self._announce(self._old, holds=True)
        for member in [self._fleet.add(spec) for spec in specs]:
            log.warning("%s: starting with the old configuration again", member.name)
            self._is_restored &= await self._fleet.becomes_ready(member) is None

    async def _back(self) -> None:
        """Those that were replaced before one failed."""
        for new in self._replaced:
            log.warning("%s: replaced by the old configuration again", new.name)
            if (await choose(self._fleet, new, self._old)).way == "surge":
                await self._restore([_beside(self._fleet, new, self._old)])
                await self._fleet.retire(new)
            else:
                await self._fleet.retire(new)
                await self._restore([replace(new.spec, model=self._old)])

    def _note(self, old: Member, choice: Choice) -> Choice:
        self.choices.append(choice)
        log.info("%s: replaced by %s (%s)", old.name, choice.way, choice.why)
        return choice


def _beside(fleet: Fleet, old: Member, model: Model) -> InstanceSpec:
    """A new instance in the old one's slot, while the old one still has its GPUs. ResourceError: none is free."""
    spec = fleet.spec_for(model, old.spec.slot)
    # Told nothing, it sees all that there are, as the old one does.
    return replace(spec, gpus=()) if not old.spec.gpus and model.gpus is None else spec
