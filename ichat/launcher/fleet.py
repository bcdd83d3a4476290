"""All instances of all models: started, kept alive, taken out of the routes, and retired without a lost request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

from ichat.config.schema import Model, Settings
from ichat.errors import IchatError
from ichat.launcher import environment
from ichat.launcher.board import Board
from ichat.launcher.devices import Turns, choose_gpus, gpus_needed, listed_gpus
from ichat.launcher.instance import Instance, InstanceSpec, WorkerProcess
from ichat.launcher.restarts import OnTrial
from ichat.launcher.status import ModelInfo
from ichat.launcher.supervisor import Supervisor

log = logging.getLogger(__name__)


class Requests(Protocol):
    """What the fleet asks of the front."""

    def drained_of(self, instance: str, incarnation: str) -> bool:
        """Whether no front process has a request there any more, and none will send another."""

    def listen(self, listener: Callable[[], None]) -> None:
        """Call it whenever an answer to ``drained_of`` may have changed."""


@dataclass
class Member:
    """One instance and who keeps it alive."""

    instance: Instance
    supervisor: Supervisor
    task: asyncio.Task[None] = field(init=False)

    @property
    def name(self) -> str:
        return self.instance.name

    @property
    def spec(self) -> InstanceSpec:
        return self.instance.spec

    @property
    def model(self) -> Model:
        return self.instance.spec.model


class Fleet:
    """``over`` gets the failure after which nothing is alive any more that could serve.

    As long as anything is, an instance that failed for good costs the others nothing: its model is red.
    """

    def __init__(
        self,
        start: Callable[[InstanceSpec], WorkerProcess],
        board: Board,
        requests: Requests,
        settings: Settings,
        visible_gpus: Iterable[str] = (),
    ) -> None:
        self.board, self.settings = board, settings
        self.members: dict[str, Member] = {}
        self.over: asyncio.Future[IchatError] = asyncio.get_running_loop().create_future()
        self._start, self._requests = start, requests
        self._visible = tuple(visible_gpus)
        self._turns = Turns()
        self._news = asyncio.Event()
        board.listen(self._news.set)
        requests.listen(self._news.set)

    # ---- starting ---------------------------------------------------------------------------------------------

    def start_all(self) -> None:
        """Every instance of every model. ResourceError: there are not enough GPUs; then none is started."""
        plan: list[InstanceSpec] = []
        for model in self.settings.models:
            for slot in range(model.instances):
                plan.append(self.spec_for(model, slot, plan))
        for model in self.settings.models:
            self.board.post_model(ModelInfo.of(model, self.settings.timeouts))
        for spec in plan:
            self.add(spec)

    def spec_for(self, model: Model, slot: int, others: Iterable[InstanceSpec] = ()) -> InstanceSpec:
        """For a new instance in this slot, beside all that there are and the ``others`` that are planned."""
        there = [*(member.spec for member in self.members.values()), *others]
        names = {spec.name for spec in there}
        name = next(name for number in count() if (name := f"{model.name}/{number}") not in names)
        return InstanceSpec(name, slot, model, self._gpus_for(model, slot, there))

    def _gpus_for(self, model: Model, slot: int, there: Iterable[InstanceSpec]) -> tuple[str, ...]:
        """A single instance that says nothing of GPUs sees what we see; others are told theirs."""
        if environment.accelerator_of(model) == "cpu" or not (gpus_needed(model) or listed_gpus(model, slot)):
            return ()
        is_alone = len(self.settings.models) == 1 and model.instances == 1 and not any(there)
        if model.gpus is None and is_alone:
            return ()
        named = [
            gpu
            for one in self.settings.models
            for place in range(one.instances)
            for gpu in listed_gpus(one, place) or ()
        ]
        taken = [gpu for spec in there for gpu in spec.gpus or self._seen_by(spec.model)]
        return choose_gpus(model, slot, self._visible, [*named, *taken])

    def gpus_after(self, old: Member, model: Model) -> tuple[str, ...]:
        """For an instance of ``model`` in the old one's place: the same GPUs where their number fits."""
        if not old.spec.gpus and model.gpus is None:
            return ()
        if listed_gpus(model, old.spec.slot) is None and len(old.spec.gpus) == gpus_needed(model):
            return old.spec.gpus
        others = [member.spec for member in self.members.values() if member is not old]
        return self._gpus_for(model, old.spec.slot, others)

    def _seen_by(self, model: Model) -> tuple[str, ...]:
        """What an instance uses that was told nothing: the first of all, one for each rank."""
        return () if environment.accelerator_of(model) == "cpu" else self._visible[: gpus_needed(model)]

    def add(self, spec: InstanceSpec, *, is_on_trial: bool = False) -> Member:
        """Start it. ``is_on_trial``: what ends before it was ready is not started again (see ``trust``)."""
        timeouts = spec.model.timeouts(self.settings.timeouts)
        instance = Instance(spec, self._start, self.board, timeouts)
        rules = (OnTrial() if is_on_trial else self.settings.restarts, timeouts)
        supervisor = Supervisor(instance, rules, lambda: self._turns.of(spec.gpus, instance.wait_for_turn))
        member = Member(instance, supervisor)
        member.task = asyncio.create_task(supervisor.run(), name=f"supervise {spec.name}")
        member.task.add_done_callback(lambda task: self._ended(member, task))
        self.members[spec.name] = member
        return member

    def trust(self, member: Member) -> None:
        """It has shown that it can serve: from now on it is restarted as the configuration says."""
        member.supervisor.rules = (self.settings.restarts, member.supervisor.rules[1])

    def _ended(self, member: Member, task: asyncio.Task[None]) -> None:
        self._news.set()
        if task.cancelled() or (error := task.exception()) is None:
            return
        if not isinstance(error, IchatError):
            self._be_over(error)  # our own bug
            return
        if isinstance(member.supervisor.rules[0], OnTrial):
            return  # whoever tries it looks at it
        log.error("%s: %s", member.name, error)
        if all(one.task.done() for one in self.members.values()):
            self._be_over(error)

    def _be_over(self, error: BaseException) -> None:
        if not self.over.done():
            self.over.set_exception(error)

    # ---- waiting ----------------------------------------------------------------------------------------------

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Until the board, the front or an ending makes it true."""
        while not is_so():
            self._news.clear()
            await self._news.wait()

    async def becomes_ready(self, member: Member) -> str | None:
        """None: it is ready, in the routes or not. Else why it will not be, in words."""
        await self.until(lambda: member.task.done() or self.board[member.name].could_serve)
        if not member.task.done():
            return None
        error = None if member.task.cancelled() else member.task.exception()
        return str(error) if error is not None else f"{member.name}: was stopped"

    # ---- leaving ----------------------------------------------------------------------------------------------

    def of(self, model: str) -> list[Member]:
        """The instances of a model, by slot."""
        return sorted((one for one in self.members.values() if one.model.name == model), key=lambda one: one.spec.slot)

    async def drain(self, member: Member) -> bool:
        """Take it out of the routes and wait until no request is there; False: not within the model's drain_s."""
        member.instance.take_out(is_out=True)
        limit_s = member.model.timeouts(self.settings.timeouts).drain_s
        try:
            async with asyncio.timeout(limit_s):
                await self.until(lambda: self._holds_nothing(member))
        except TimeoutError:
            log.warning("%s: requests are left after %.0f s of draining, they are cut off", member.name, limit_s)
            return False
        return True

    def _holds_nothing(self, member: Member) -> bool:
        endpoint = self.board[member.name].endpoint
        return endpoint is None or self._requests.drained_of(endpoint.name, endpoint.incarnation)

    async def retire(self, member: Member) -> bool:
        """Drain and stop it; nothing of it is left afterwards. False: requests had to be cut off."""
        is_whole = True if member.task.done() else await self.drain(member)
        await self.remove(member)
        return is_whole

    async def remove(self, member: Member) -> None:
        """Stop it, whatever it does; nothing of it is left afterwards."""
        member.supervisor.expect_end()
        await member.supervisor.stop(self.settings.timeouts.stop_s)
        await asyncio.wait({member.task})
        self.members.pop(member.name, None)
        if member.name in self.board:
            self.board.remove(member.name)

    async def close(self) -> None:
        """After the shutdown: let go of every task."""
        tasks = {member.task for member in self.members.values()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # ---- what a reload changes while they run -----------------------------------------------------------------

    def adopt(self, settings: Settings, models: Mapping[str, Model]) -> None:
        """The settings of now; ``models`` are those whose running instances take on what needs no restart."""
        self.settings = settings
        for member in self.members.values():
            if (model := models.get(member.model.name)) is not None:
                member.instance.change(model)
            timeouts = member.model.timeouts(settings.timeouts)
            if not isinstance(member.supervisor.rules[0], OnTrial):
                member.supervisor.rules = (settings.restarts, timeouts)
