"""All instances of all models: started, kept alive, taken out of the routes, and retired without a lost request."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

from ichat.config.schema import Model, Settings
from ichat.errors import EngineError, IchatError
from ichat.launcher.aside import Aside
from ichat.launcher.board import Board
from ichat.launcher.devices import Turns
from ichat.launcher.instance import Instance, InstanceSpec, WorkerProcess
from ichat.launcher.placement import Placement
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

    As long as anything is, an instance that failed for good costs the others nothing: its model is red. Within
    ``work()`` somebody replaces instances, so that it is not over before that has ended.
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
        self.placement = Placement(visible_gpus, settings)
        self.members: dict[str, Member] = {}
        self.over: asyncio.Future[IchatError] = asyncio.get_running_loop().create_future()
        self.cut_off: list[tuple[str, str]] = []  # (model, instance) of those that were stopped with requests
        self.measurements = Aside("measuring free memory")
        self._works = 0
        self._given_up: dict[str, str] = {}  # models whose new instances nobody wants any more, and why
        self._start, self._requests = start, requests
        self._turns = Turns()
        self._news = asyncio.Event()
        self._last_failure: IchatError = EngineError("ichat: no instance of any model is left.")
        board.listen(self._news.set)
        requests.listen(self._news.set)

    # ---- starting ---------------------------------------------------------------------------------------------

    def start_all(self) -> None:
        """Every instance of every model. ResourceError: there are not enough GPUs; then none is started."""
        plan: list[InstanceSpec] = []
        for model in self.settings.models:
            for slot in range(model.instances):
                plan.append(self.spec_for(model, slot, plan))
        with self.board.at_once():
            for model in self.settings.models:
                self.board.post_model(ModelInfo.of(model, self.settings.timeouts))
        for spec in plan:
            self.add(spec)

    def specs(self, *without: Member) -> list[InstanceSpec]:
        return [member.spec for member in self.members.values() if member not in without]

    def spec_for(self, model: Model, slot: int, others: Sequence[InstanceSpec] = ()) -> InstanceSpec:
        """For one more instance, beside all that there are and the planned ``others``. May raise ResourceError."""
        there = [*self.specs(), *others]
        return _spec(model, slot, there, self.placement.free(model, slot, there))

    def spec_beside(self, old: Member, model: Model, others: Sequence[InstanceSpec] = ()) -> tuple[InstanceSpec, bool]:
        """For one that starts while ``old`` serves; whether it shares the old one's GPUs. May raise ResourceError."""
        slot = old.spec.slot
        there = [*self.specs(old), *others]
        gpus, is_shared = self.placement.beside(old.spec, model, slot, there)
        return _spec(model, slot, [*there, old.spec], gpus), is_shared

    def spec_after(self, old: Member, model: Model, others: Sequence[InstanceSpec] = ()) -> InstanceSpec:
        """For one that starts when ``old`` has left. May raise ResourceError."""
        slot, there = old.spec.slot, [*self.specs(old), *others]
        return _spec(model, slot, there, self.placement.after(old.spec, model, slot, there))

    def add(self, spec: InstanceSpec, *, is_on_trial: bool = False) -> Member:
        """Start it. ``is_on_trial``: what ends before it was ready is not started again (see ``trust``)."""
        timeouts = spec.model.timeouts(self.settings.timeouts)
        instance = Instance(spec, self._start, self.board, timeouts)
        rules = (OnTrial() if is_on_trial else self.settings.restarts, timeouts)
        supervisor = Supervisor(
            instance, rules, lambda: self._turns.of(self.placement.used_by(spec), instance.wait_for_turn)
        )
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
        self._last_failure = error
        if not isinstance(member.supervisor.rules[0], OnTrial):  # else whoever tries it tells
            log.error("%s: %s", member.name, error)
        self.settle()

    @contextlib.contextmanager
    def work(self) -> Iterator[None]:
        """Within it the end of the last instance is not the end of all."""
        self._works += 1
        try:
            yield
        finally:
            self._works -= 1
            if not self.board.is_leaving:
                self.settle()

    def settle(self) -> None:
        """Whether anything is alive, when nobody is about to change that."""
        if not self._works and all(member.task.done() for member in self.members.values()):
            self._be_over(self._last_failure)

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
        """None: it is ready, in the routes or not. Else why it will not be, or is not wanted any more, in words."""
        model = member.model.name
        await self.until(lambda: member.task.done() or self.board[member.name].could_serve or model in self._given_up)
        if not member.task.done():
            return None if self.board[member.name].could_serve else f"{member.name}: {self._given_up[model]}"
        error = None if member.task.cancelled() else member.task.exception()
        return str(error) if error is not None else f"{member.name}: was stopped"

    async def comes_back(self, member: Member) -> bool:
        """Whether its first try succeeds; after that it is restarted, or given up, without anybody waiting."""
        await self.until(
            lambda: (
                member.task.done()
                or self.board[member.name].could_serve
                or self.board[member.name].retry_at is not None
            )
        )
        return not member.task.done() and self.board[member.name].could_serve

    def give_up(self, model: str, why: str) -> None:
        """Whoever waits for a new instance of the model is told that it will not be, until `accept`."""
        self._given_up[model] = why
        self._news.set()

    def accept(self, model: str) -> None:
        """New instances of it are waited for again."""
        self._given_up.pop(model, None)

    # ---- leaving ----------------------------------------------------------------------------------------------

    def of(self, model: str) -> list[Member]:
        """The instances of a model, by slot."""
        return sorted((one for one in self.members.values() if one.model.name == model), key=lambda one: one.spec.slot)

    def worth(self, member: Member) -> int:
        """How much its model would miss it: most if it serves, then if it will, if it is out, if it has failed."""
        if member.task.done():
            return 0
        status = self.board[member.name]
        return 3 if status.is_ready else 1 if status.is_out else 2

    async def drain(self, member: Member) -> bool:
        """Take it out of the routes and wait until no request is there (see `drained`)."""
        member.instance.take_out(is_out=True)
        return await self.drained(member)

    async def drained(self, member: Member) -> bool:
        """Wait until no request is there, for the model's drain_s at most.

        False: there were some after the model's drain_s, or when it died, or it was put back into the routes.
        """
        before = self.board[member.name].endpoint if member.name in self.board else None
        try:
            async with asyncio.timeout(member.model.timeouts(self.settings.timeouts).drain_s):
                await self.until(lambda: self._is_wanted(member) or self._holds_nothing(member))
        except TimeoutError:
            return False
        if member.name not in self.board:  # somebody else has retired it meanwhile, and told of what it had
            return True
        return not self._is_wanted(member) and (before is None or self.board[member.name].endpoint == before)

    def _is_wanted(self, member: Member) -> bool:
        """Back in the routes."""
        return member.name in self.board and not self.board[member.name].is_out

    def _holds_nothing(self, member: Member) -> bool:
        if member.name not in self.board:
            return True
        endpoint = self.board[member.name].endpoint
        return endpoint is None or self._requests.drained_of(endpoint.name, endpoint.incarnation)

    async def retire(self, member: Member) -> None:
        """Drain and stop it; nothing of it is left afterwards. What outlasts the drain is cut off, and noted."""
        if not member.task.done() and not await self.drain(member):
            log.warning("%s: had requests until it died, or for longer than drain_s; they are cut off", member.name)
            self.cut_off.append((member.model.name, member.name))
        await self.remove(member)

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
            timeouts = member.instance.timeouts = member.model.timeouts(settings.timeouts)
            if not isinstance(member.supervisor.rules[0], OnTrial):
                member.supervisor.rules = (settings.restarts, timeouts)


def _spec(model: Model, slot: int, there: Sequence[InstanceSpec], gpus: tuple[str, ...]) -> InstanceSpec:
    return InstanceSpec(free_name(model.name, there), slot, model, gpus)


def free_name(model: str, there: Iterable[InstanceSpec]) -> str:
    """The first that nobody has."""
    names = {spec.name for spec in there}
    return next(name for number in count() if (name := f"{model}/{number}") not in names)
