"""Instances that come and go: of a model that is new, or that has more of them, or fewer, than before."""

from __future__ import annotations

from typing import Protocol

from ichat.config.schema import Model
from ichat.errors import ExitCode, IchatError
from ichat.launcher.fleet import Fleet, Member
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


async def scale(fleet: Fleet, model: Model) -> None:
    """As many instances as the model says. RolloutError: a new one did not get ready; then the new ones are gone."""
    there = fleet.of(model.name)
    for surplus in there[model.instances :]:
        await fleet.retire(surplus)
    used = {member.spec.slot for member in there}
    started: list[Member] = []
    try:
        for slot in [slot for slot in range(model.instances) if slot not in used]:
            started.append(fleet.add(fleet.spec_for(model, slot), is_on_trial=True))
            await start_whole(fleet, started[-1])
    except IchatError:
        for member in started[:-1]:
            await fleet.retire(member)
        raise


class Work(Protocol):
    was_whole: bool

    async def run(self) -> None: ...


class Addition:
    """A model that was not there before. When it does not get ready it is not there afterwards."""

    was_whole = True

    def __init__(self, fleet: Fleet, model: Model) -> None:
        self._fleet, self._model = fleet, model

    async def run(self) -> None:
        board, model = self._fleet.board, self._model
        info = ModelInfo.of(model, self._fleet.settings.timeouts)
        board.post_model(info)
        board.excuse(model.name, is_excused=True)
        try:
            await scale(self._fleet, model)
        except IchatError:
            board.remove_model(model.name)
            raise
        board.excuse(model.name, is_excused=False)


class Scaling:
    """More instances of a model, or fewer; none for one of which only limits changed."""

    was_whole = True

    def __init__(self, fleet: Fleet, model: Model) -> None:
        self._fleet, self._model = fleet, model

    async def run(self) -> None:
        await scale(self._fleet, self._model)
