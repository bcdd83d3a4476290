"""The routing table: which models there are, in which state, and which worker takes the next request."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from ichat.front.errors import Failure, model_not_found
from ichat.front.worker import Worker
from ichat.ipc import messages

if TYPE_CHECKING:
    from ichat.config.schema import Timeouts

#: Instance and incarnation: an address may be somebody else's tomorrow.
_Key = tuple[str, str]

_SECONDS_AT_END = re.compile(r", \d+ s$")


class Model:
    """One model and its workers that can be sent requests."""

    __slots__ = ("is_ready", "name", "route", "workers")

    def __init__(self, route: messages.RouteModel) -> None:
        self.name = route.name
        self.change(route, [])

    def change(self, route: messages.RouteModel, workers: list[Worker]) -> None:
        """A request that is under way sees it too: its second try may go to a worker that is new."""
        self.route, self.workers = route, workers
        self.is_ready = route.state == "ready" and bool(workers)

    @property
    def names(self) -> list[str]:
        return self.route.served_names or [self.route.name]

    def pick(self, tried: Collection[Worker] = ()) -> Worker | None:
        """The worker with the least in flight, of equals the one that served least; None: there is no other.

        One that has just failed rests, unless all do: a worker that fails fast is always the least loaded.
        """
        workers = self.workers
        if len(workers) == 1:
            return None if workers[0] in tried else workers[0]
        now = time.monotonic()
        candidates = [worker for worker in workers if worker not in tried]
        rested = [worker for worker in candidates if worker.rests_until <= now]
        return min(rested or candidates, key=_load, default=None)

    def words(self) -> str:
        """`loading demo: weights, 12 s`: one line for people."""
        route = self.route
        if self.is_ready:
            return f"ready: {self.name}"
        if route.state != "starting":
            return f"{route.state}: {self.name}" if route.state != "ready" else f"not ready: {self.name}"
        doing, colon, detail = route.words.partition(": ")
        if colon:  # `restarting: vLLM process 123 …; attempt 2 of 5 in 4 s`
            return f"{doing} {self.name}: {detail}"
        phase = _SECONDS_AT_END.sub("", route.words) or "starting"
        return f"loading {self.name}: {phase}, {max(0, int(time.time() - route.since))} s"

    def refusal(self, retry_after_s: int) -> Failure:
        """Why it takes no request now, though it is known."""
        code = {"starting": "model_loading", "draining": "model_draining"}.get(self.route.state, "no_worker")
        return Failure(503, code, f"{self.words()}. Try again in {retry_after_s} s.", retry_after_s)


def _load(worker: Worker) -> tuple[int, int]:
    return worker.in_flight, worker.served


class RoutingTable:
    """Replaced as a whole by each Routes message; workers live on in it as long as their incarnation does."""

    __slots__ = ("_by_name", "_leaving", "_report", "_timeouts", "_workers", "models", "was_ready")

    def __init__(self, timeouts: Timeouts, report: Callable[[messages.WorkerFault], None]) -> None:
        self._timeouts, self._report = timeouts, report
        self._workers: dict[_Key, Worker] = {}
        self._leaving: dict[_Key, Worker] = {}  # not routed to any more, busy with what they have
        self._by_name: dict[str, Model] = {}
        self.models: list[Model] = []
        self.was_ready = False

    def replace(self, routes: messages.Routes) -> None:
        """Workers that are no longer in it get nothing more; those known to be dead are ended."""
        known, self._workers = self._leaving | self._workers, {}
        models = {model.name: model for model in self.models}
        self.models = [models.get(route.name) or Model(route) for route in routes.models]
        for model, route in zip(self.models, routes.models, strict=True):
            model.change(route, [self._worker(instance, known) for instance in route.instances])
        self._by_name = {name: model for model in self.models for name in model.names}
        self.was_ready = self.was_ready or routes.was_ready
        self._leaving = {}
        for key, worker in known.items():
            if key in self._workers:
                continue
            worker.retire()
            if self._is_dead(key):
                worker.end()
            elif worker.in_flight:
                self._leaving[key] = worker

    def _is_dead(self, key: _Key) -> bool:
        """A name is given away again only when all of the process that had it is gone."""
        instance, _ = key
        if any(name == instance for name, _ in self._workers):
            return True
        model = instance.rpartition("/")[0]
        return not any(one.name == model and one.route.state not in ("failed", "stopped") for one in self.models)

    def _worker(self, instance: messages.Instance, known: dict[_Key, Worker]) -> Worker:
        key = (instance.name, instance.incarnation)
        worker = known.get(key) or Worker(instance, self._timeouts, self._report)
        self._workers[key] = worker
        worker.is_retired = False  # one that was under suspicion may come back
        return worker

    def find(self, name: str | None) -> Model | Failure:
        """The model of a request; without a name it must be the only one."""
        if name is not None and (model := self._by_name.get(name)) is not None:
            return model
        if not self.models:
            retry_after_s = self._timeouts.retry_after_s
            return Failure(503, "model_loading", f"starting. Try again in {retry_after_s} s.", retry_after_s)
        if name is not None:
            return model_not_found(name, self.served_names())
        if len(self.models) == 1:
            return self.models[0]
        message = f"model: missing, and several are served. Name one of {', '.join(self.served_names())}."
        return Failure(400, "invalid_body", message)

    def served_names(self) -> list[str]:
        return list(self._by_name)

    @property
    def retry_after_s(self) -> int:
        return self._timeouts.retry_after_s

    @property
    def is_ready(self) -> bool:
        return bool(self.models) and all(model.is_ready for model in self.models)

    @property
    def workers(self) -> Collection[Worker]:
        return self._workers.values()

    @property
    def all_workers(self) -> list[Worker]:
        """Those that leave included."""
        return [*self._workers.values(), *self._leaving.values()]

    def words(self) -> str:
        unready = [model.words() for model in self.models if not model.is_ready]
        if unready:
            return "; ".join(unready)
        return f"ready: {', '.join(model.name for model in self.models)}" if self.models else "starting"
