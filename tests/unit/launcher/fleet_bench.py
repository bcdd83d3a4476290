"""A fleet whose workers are played by the test's rules, with a front that knows when requests have ended."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any, TypeVar

from ichat.config.schema import Model, Settings, Timeouts
from ichat.ipc import messages
from ichat.launcher.aside import Aside
from ichat.launcher.board import Board
from ichat.launcher.fleet import Fleet
from ichat.launcher.instance import InstanceSpec
from ichat.launcher.process import Exit
from ichat.launcher.reload import Reloader
from tests.unit.launcher.fakes import FakeProcess

LOAD_S = 10.0


def model(name: str = "demo", **changes: Any) -> Model:
    return Model(**({"name": name, "model_path": f"models/{name}", "backend": "fake", "rollout": "surge"} | changes))


def settings_of(*models: Model, **sections: Any) -> Settings:
    return Settings(models=models, **({"timeouts": Timeouts(drain_s=30)} | sections))


_Result = TypeVar("_Result")


class AtOnce(Aside):
    """No thread: virtual time would not wait for it."""

    async def run(self, call: Callable[[], _Result]) -> _Result:
        await asyncio.sleep(0)
        return call()


class FakeFronts:
    """``busy`` are the instances that still have requests. Records what each Routes message would have said."""

    def __init__(self, board: Board) -> None:
        self.busy: set[str] = set()
        self.configured: list[Settings] = []
        self.routes: list[messages.Routes] = []
        self._listeners: list[Callable[[], None]] = []
        board.listen(lambda: self.routes.append(board.routes()))

    def drained_of(self, instance: str, incarnation: str) -> bool:
        assert any(one.incarnation == incarnation for one in self.routes[-1].others), "it may still get requests"
        return instance not in self.busy

    def listen(self, listener: Callable[[], None]) -> None:
        self._listeners.append(listener)

    def configure(self, settings: Settings) -> None:
        self.configured.append(settings)

    def finish(self, instance: str) -> None:
        self.busy.discard(instance)
        for listener in self._listeners:
            listener()


class FleetBench:
    """``cannot_load`` decides whether a worker with this description dies instead of becoming ready.

    ``stays_loading`` whether it does neither.
    """

    def __init__(self, settings: Settings, visible_gpus: tuple[str, ...] = ()) -> None:
        loop = asyncio.get_running_loop()
        self.board = Board(loop.time)
        self.board.front_words = None
        self.fronts = FakeFronts(self.board)
        self.processes: dict[str, FakeProcess] = {}  # the last one of each name
        self.started: list[InstanceSpec] = []
        self.answers_to: dict[str, str] = {}  # the served name by incarnation
        self.cannot_load: Callable[[Model], bool] = lambda _model: False
        self.stays_loading: Callable[[Model], bool] = lambda _model: False
        self.file = settings  # what the configuration says now
        self.names_models = True  # it does, rather than leave it to what stands in for them
        self.checked: list[str] = []
        self.fleet = Fleet(self._start, self.board, self.fronts, settings, visible_gpus)
        self.reloader = Reloader(self.fleet, self.fronts, self._load, lambda one: self.checked.append(one.name))
        self.reloader.names_models = True
        self.reloader._reads = self.reloader._plans = self.fleet.measurements = AtOnce("")

    def _load(self) -> Any:
        class Loaded:
            settings, notices, hidden, names_models = self.file, (), frozenset(), self.names_models
            sources = SimpleNamespace(document=SimpleNamespace(name="configs.yaml"))

        return Loaded

    def _start(self, spec: InstanceSpec) -> FakeProcess:
        process = FakeProcess()
        self.started.append(spec)
        self.answers_to[process.incarnation] = spec.model.served_name
        self.processes[spec.name] = process
        loop = asyncio.get_running_loop()
        if self.cannot_load(spec.model):
            loop.call_later(LOAD_S, process.end, Exit(65, None))
        elif not self.stays_loading(spec.model):
            loop.call_later(LOAD_S, process.become_ready, *spec.model.served_names)
        return process

    async def start(self) -> None:
        self.fleet.start_all()
        await self.fleet.until(lambda: self.board.health()[0])

    @property
    def ready(self) -> dict[str, list[str]]:
        """The instances that a request of each model may go to now."""
        return {route.name: [one.name for one in route.instances] for route in self.board.routes().models}

    def models_served(self, name: str) -> list[Model]:
        return [member.model for member in self.fleet.of(name)]


@contextlib.asynccontextmanager
async def fleet_bench(*models: Model, visible_gpus: tuple[str, ...] = (), **sections: Any) -> AsyncIterator[FleetBench]:
    bench = FleetBench(settings_of(*models, **sections), visible_gpus)
    try:
        await bench.start()
        yield bench
    finally:
        await bench.reloader.close()
        await bench.fleet.close()
