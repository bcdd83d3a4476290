"""Instances that come and go: of a model that is new, or that has more of them, or fewer, than before."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from ichat.config.schema import Model
from ichat.errors import ExitCode, IchatError
from ichat.launcher.fleet import Fleet, Member
from ichat.launcher.instance import InstanceSpec
from ichat.launcher.status import ModelInfo


class RolloutError(IchatError):
    """The new instance did not get ready, and the old configuration serves again, or did not stop serving."""

    exit_code, code = ExitCode.ENGINE, "E-ROLLOUT"


async def start_whole(fleet: Fleet, member: Member) -> None:
    """Wait until it serves. IchatError: it will not; then nothing of it is left."""
    failure = await fleet.becomes_ready(member)
    if failure is None:
        fleet.trust(member)
        return
    await fleet.remove(member)
    raise RolloutError(failure)


def surplus(fleet: Fleet, model: Model) -> list[Member]:
    """Whom the model does without: those whose GPUs are not named any more, then those that serve least."""
    there = fleet.of(model.name)
    is_listed = isinstance(model.gpus, tuple)
    gone = [member for member in there if is_listed and member.spec.slot >= model.instances]
    kept = [member for member in there if member not in gone]
    worst_first = sorted(kept, key=lambda member: (fleet.worth(member), -member.spec.slot))
    return [*gone, *worst_first[: max(0, len(kept) - model.instances)]]


async def scale(fleet: Fleet, model: Model) -> None:
    """As many instances as the model says. IchatError: a new one did not get ready; then the new ones are gone."""
    for member in surplus(fleet, model):
        await fleet.retire(member)
    used = {member.spec.slot for member in fleet.of(model.name)}
    free = [slot for slot in range(max(model.instances, len(used))) if slot not in used]
    specs: list[InstanceSpec] = []
    for slot in free[: model.instances - len(used)]:
        specs.append(fleet.spec_for(model, slot, specs))
    started: list[Member] = []
    try:
        for spec in specs:
            member = fleet.add(spec, is_on_trial=True)
            await start_whole(fleet, member)
            started.append(member)
    except IchatError:
        for member in started:
            await fleet.retire(member)
        raise


class Work(Protocol):
    """What is done for one model. IchatError: it failed, and the words say what serves now."""

    async def run(self) -> None: ...


class Addition:
    """A model that was not there before. When it does not get ready it is not there afterwards."""

    def __init__(self, fleet: Fleet, model: Model) -> None:
        self._fleet, self._model = fleet, model

    async def run(self) -> None:
        board, model = self._fleet.board, self._model
        board.post_model(replace(ModelInfo.of(model, self._fleet.settings.timeouts), is_excused=True))
        try:
            await scale(self._fleet, model)
        except IchatError:
            board.remove_model(model.name)
            raise
        board.excuse(model.name, is_excused=False)


class Scaling:
    """More instances of a model, or fewer."""

    def __init__(self, fleet: Fleet, model: Model) -> None:
        self._fleet, self._model = fleet, model

    async def run(self) -> None:
        await scale(self._fleet, self._model)
