"""How the instances of one model are replaced: one by one, without a lost request, and back again when it fails."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ichat.config.schema import Model
from ichat.errors import IchatError, ResourceError
from ichat.launcher import environment, memory
from ichat.launcher.changes import renames
from ichat.launcher.fleet import Fleet, Member, free_name
from ichat.launcher.instance import InstanceSpec
from ichat.launcher.scaling import RolloutError, scale, start_whole, surplus
from ichat.launcher.status import ModelInfo

log = logging.getLogger(__name__)

Way = Literal["surge", "hold"]


@dataclass(frozen=True)
class Choice:
    """``way`` and, for people, why."""

    way: Way
    why: str


async def choose(fleet: Fleet, old: Sequence[Member], model: Model, count: int) -> Choice:
    """How the ``old`` ones are to be replaced by ``count`` new instances: as configured, or as memory allows."""
    if model.rollout != "auto":
        return Choice(model.rollout, "as configured")
    pid = next((pid for one in old if (pid := fleet.board[one.name].pid) is not None), None)
    if pid is None:
        return Choice("hold", "there is no process to serve on beside it")
    if environment.accelerator_of(model) == "cpu":
        verdict = await memory.told(fleet.measurements, lambda: memory.fits_host(pid, count))
        return Choice("surge" if verdict.fits else "hold", verdict.why)
    return await _choose_by_gpus(fleet, old, model, count)


async def _choose_by_gpus(fleet: Fleet, old: Sequence[Member], model: Model, count: int) -> Choice:
    planned: list[InstanceSpec] = []
    shared: list[str] = []
    try:
        for number in range(count):
            spec, is_shared = _beside(fleet, old, model, number, planned)
            planned.append(spec)
            shared += fleet.placement.used_by(spec) if is_shared else ()
    except ResourceError:
        return Choice("hold", "no other GPU is free")
    if not shared:
        gpus = [gpu for spec in planned for gpu in fleet.placement.used_by(spec)]
        return Choice("surge", f"GPU {', '.join(gpus)} {'is' if len(gpus) == 1 else 'are'} free")
    verdict = await memory.told(fleet.measurements, lambda: memory.fits_gpus(shared, model.memory_fraction))
    return Choice("surge" if verdict.fits else "hold", verdict.why)


def _beside(
    fleet: Fleet, old: Sequence[Member], model: Model, number: int, planned: Sequence[InstanceSpec]
) -> tuple[InstanceSpec, bool]:
    """The ``number``th new instance while the old ones serve, and whether it shares GPUs with one. ResourceError."""
    if number < len(old):
        return fleet.spec_beside(old[number], model, planned)
    used = {one.spec.slot for one in old} | {spec.slot for spec in planned}
    slot = next(slot for slot in range(model.instances + len(used)) if slot not in used)
    return fleet.spec_for(model, slot, planned), False


class Rollout:
    """Replaces the instances of one model by instances of another description of it.

    ``run`` returns when all of them are replaced and serve. RolloutError: one did not get ready; then those that had
    been replaced are replaced back, and the words say what serves now. Requests are served, or wait, all the time.
    """

    def __init__(self, fleet: Fleet, old: Model, new: Model) -> None:
        self._fleet, self._old, self._new = fleet, old, new
        self._were: dict[int, InstanceSpec] = {}  # the old ones by slot
        self._is_restored = True

    async def run(self) -> None:
        fleet, new = self._fleet, self._new
        fleet.board.excuse(self._old.name, is_excused=True)
        try:
            for member in surplus(fleet, new):
                await fleet.retire(member)
            self._were = {member.spec.slot: member.spec for member in fleet.of(new.name)}
            if renames(self._old, new):
                await self._at_once()
            else:
                self._announce(new)
                await self._one_by_one()
            await scale(fleet, new)
        except IchatError as error:
            await self._back()
            raise RolloutError(f"{str(error).rstrip('.')}. {self._outcome()}") from error
        finally:
            self._announce(self._serving(), is_excused=False)

    def _outcome(self) -> str:
        if self._is_restored:
            return "The old configuration serves."
        if any(member.model == self._new for member in self._fleet.of(self._new.name)):
            return "The old one does not get ready either: what had been replaced before goes on serving."
        return "The old one does not get ready either: it is tried again."

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
        for old in self._fleet.of(self._old.name):
            choice = self._note(old, await choose(self._fleet, [old], self._new, 1))
            was_out = not old.task.done() and self._fleet.board[old.name].is_out
            new = await self._replace(old, choice.way)
            if was_out:  # drained by command
                new.instance.take_out(is_out=True)

    async def _replace(self, old: Member, way: Way) -> Member:
        if way == "surge":
            new = await self._start(self._fleet.spec_beside(old, self._new)[0])
            await self._fleet.retire(old)
            return new
        spec = self._fleet.spec_after(old, self._new)  # while it still serves: what cannot be placed touches nothing
        self._announce(self._new, holds=True)
        await self._fleet.retire(old)
        try:
            return await self._start(spec)
        except IchatError:
            await self._restore([old.spec])  # nobody serves in its place now
            raise

    # ---- all at once, where old and new answer to different names ---------------------------------------------

    async def _at_once(self) -> None:
        old = self._fleet.of(self._old.name)
        if not old:
            return
        choice = self._note(old[0], await choose(self._fleet, old, self._new, self._new.instances))
        if choice.way == "surge":
            new = await self._start_all(await self._plan_beside(old))
            self._switch(new, old)
            for one in old:
                await self._fleet.retire(one)
        else:
            await self._retire_first(old)

    async def _plan_beside(self, old: Sequence[Member]) -> list[InstanceSpec]:
        planned: list[InstanceSpec] = []
        for number in range(self._new.instances):
            planned.append(_beside(self._fleet, old, self._new, number, planned)[0])
        return planned

    async def _retire_first(self, old: Sequence[Member]) -> None:
        """Requests for the old names wait until the new ones hold, and are told so then."""
        planned: list[InstanceSpec] = []
        for one in old:
            planned.append(self._fleet.spec_after(one, self._new, planned))
        self._announce(self._old, holds=True)
        for one in old:
            await self._fleet.retire(one)
        try:
            self._switch(await self._start_all(planned))
        except IchatError:
            await self._restore([one.spec for one in old])
            raise

    async def _start_all(self, specs: Sequence[InstanceSpec]) -> list[Member]:
        """Ready and out of the routes. IchatError: one did not get ready; then none is there."""
        started: list[Member] = []
        try:
            for spec in specs:
                started.append(await self._start(spec, is_out=True))
        except IchatError:
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

    async def _start(self, spec: InstanceSpec, *, is_out: bool = False) -> Member:
        member = self._fleet.add(spec, is_on_trial=True)
        if is_out:
            member.instance.take_out(is_out=True)
        await start_whole(self._fleet, member)
        return member

    # ---- back -------------------------------------------------------------------------------------------------

    async def _back(self) -> None:
        """Old ones for all that were replaced before one failed. What serves goes only when its successor serves."""
        if self._new == self._old:
            return
        for new in self._fleet.of(self._new.name):
            if new.model != self._new or not self._is_restored:
                continue
            were = self._were.get(new.spec.slot)
            if were is None:  # more than there had been
                await self._fleet.retire(new)
                continue
            log.warning("%s: replaced by the old configuration again", new.name)
            await self._replace_back(new, were)

    async def _replace_back(self, new: Member, were: InstanceSpec) -> None:
        if (await choose(self._fleet, [new], self._old, 1)).way == "hold":
            await self._fleet.retire(new)
            await self._restore([were])
            return
        is_renamed = renames(self._old, self._new)
        restored = await self._restore([were], is_out=is_renamed)
        if self._is_restored:
            with self._fleet.board.at_once():
                self._announce(self._old)
                new.instance.take_out(is_out=True)
                for one in restored:
                    one.instance.take_out(is_out=False)
            await self._fleet.retire(new)

    async def _restore(self, specs: Sequence[InstanceSpec], *, is_out: bool = False) -> list[Member]:
        """As it was, and restarted like any other; waited for until its first try has ended."""
        if not is_out:
            self._announce(self._old, holds=True)
        members = []
        for spec in specs:
            member = self._fleet.add(replace(spec, name=free_name(self._old.name, self._fleet.specs())))
            if is_out:
                member.instance.take_out(is_out=True)
            members.append(member)
            log.warning("%s: starting with the old configuration again", member.name)
        for member in members:
            self._is_restored &= await self._fleet.comes_back(member)
        return members

    def _note(self, old: Member, choice: Choice) -> Choice:
        log.info("%s: replaced by %s (%s)", old.name, choice.way, choice.why)
        return choice
