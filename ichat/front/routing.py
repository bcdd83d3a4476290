"""The routing table: which models there are, and the workers that serve them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from ichat.front.caps import keys_of
from ichat.front.errors import Failure, model_missing, model_not_found
from ichat.front.model import Model
from ichat.front.worker import Worker
from ichat.ipc import messages

if TYPE_CHECKING:
    from ichat.config.schema import Timeouts

#: Instance and incarnation: an address may be somebody else's tomorrow.
_Key = tuple[str, str]


class RoutingTable:
    """Replaced as a whole by each Routes message; workers live on in it as long as their incarnation does.

    ``report`` takes what the launcher is to be told of a worker. ``processes`` is among how many fronts the limits
    of a model are shared.
    """

    __slots__ = (
        "_report",
        "_timeouts",
        "_workers",
        "all_keys",
        "by_name",
        "has_been_ready",
        "models",
        "number_keys",
        "processes",
        "was_ready",
    )

    @property
    def retry_after_s(self) -> int:
        return self._timeouts.retry_after_s

    def __init__(self, timeouts: Timeouts, report: Callable[[messages.Message], None], processes: int = 1) -> None:
        self._timeouts, self._report, self.processes = timeouts, report, processes
        self._workers: dict[_Key, Worker] = {}
        self.by_name: dict[str, Model] = {}
        self.models: list[Model] = []
        # What a search through a long body must find; ``number_keys`` where nothing is generated.
        self.all_keys = self.number_keys = keys_of(())
        self.was_ready = False  # every model, once
        self.has_been_ready = False  # any of them, once

    def replace(self, routes: messages.Routes) -> None:
        """Workers among the others get nothing more; those that are gone are ended."""
        known, self._workers = self._workers, {}
        removed = {model.name: model for model in self.models}
        self.models = [self._model(route, removed) for route in routes.models]
        self.was_ready = self.was_ready or routes.was_ready
        is_one_ready = any(route.state == "ready" for route in routes.models)
        self.has_been_ready = self.has_been_ready or self.was_ready or is_one_ready
        for instance in routes.others:
            self._worker(instance, known)
        for model, route in zip(self.models, routes.models, strict=True):
            workers = [self._worker(instance, known) for instance in route.instances]
            for worker in workers:
                worker.is_retired = False  # one that was under suspicion may come back
            model.change(route, workers)
        self.by_name = {name: model for model in self.models for name in model.names}
        caps = [model.caps for model in self.models if model.caps is not None]
        self.all_keys, self.number_keys = keys_of(caps), keys_of(caps, with_constraints=False)
        for key, worker in known.items():
            if key not in self._workers:
                worker.end()
        self._let_go(routes.others, removed.values())

    def _let_go(self, others: Collection[messages.Instance], removed: Collection[Model]) -> None:
        in_use = {worker for model in self.models for worker in model.workers}
        for instance in others:
            worker = self._workers[_key(instance)]
            if worker not in in_use:
                worker.retire()
        for model in removed:
            model.change(model.route, [])
            model.close(model_not_found(model.names[0], self.served_names()))

    def _model(self, route: messages.RouteModel, known: dict[str, Model]) -> Model:
        return known.pop(route.name) if route.name in known else Model(route, self._timeouts, self.processes)

    def _worker(self, instance: messages.Instance, known: dict[_Key, Worker]) -> Worker:
        key = _key(instance)
        if (worker := self._workers.get(key)) is None:
            worker = known.get(key) or Worker(instance, self._timeouts, self._report)
            self._workers[key] = worker
        return worker

    def find(self, name: str | None) -> Model | Failure:
        """The model of a request; without a name it must be the only one."""
        if name is not None and (model := self.by_name.get(name)) is not None:
            return model
        if not self.models:
            return self.refusal("starting")
        if name is not None:
            return model_not_found(name, self.served_names())
        return self.models[0] if len(self.models) == 1 else model_missing(self.served_names())

    def refusal(self, words: str) -> Failure:
        """No model takes a request now."""
        retry_after_s = self._timeouts.retry_after_s
        return Failure(503, "model_loading", f"{words}. Try again in {retry_after_s} s.", retry_after_s)

    def dismiss(self) -> None:
        """Refuse those who have waited long enough for their model."""
        for model in self.models:
            if model.waiters:
                model.dismiss()

    def close(self, failure: Failure) -> None:
        """The server drains: what is not ready now will not be. Who waits for a ready model may go on."""
        for model in self.models:
            if not model.is_ready:
                model.close(failure)

    def served_names(self) -> list[str]:
        return list(self.by_name)

    @property
    def is_ready(self) -> bool:
        """A model that is being added or changed by command does not count."""
        return bool(self.models) and all(model.is_ready or model.route.is_excused for model in self.models)

    @property
    def workers(self) -> Collection[Worker]:
        """Those that leave included."""
        return self._workers.values()

    def words(self) -> str:
        unready = [model for model in self.models if not model.is_ready]
        if not self.is_ready:
            return "; ".join(model.words() for model in unready if not model.route.is_excused) or "starting"
        ready = f"ready: {', '.join(model.name for model in self.models if model.is_ready) or 'none'}"
        return f"{ready} ({'; '.join(model.words() for model in unready)})" if unready else ready


def _key(instance: messages.Instance) -> _Key:
    return instance.name, instance.incarnation
