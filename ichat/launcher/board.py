"""What the launcher knows about every instance, in memory: the one source of readiness, routes and status."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from ichat.ipc import messages
from ichat.ipc.messages import Routes
from ichat.launcher.status import ModelInfo, Status, rank

_CONFIGURED = "as configured"


class Board:
    """All models, their instances, the front, and whether we are leaving. Listeners are called after every change."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.monotonic = time.monotonic if clock is time.time else clock
        self._models: dict[str, ModelInfo] = {}
        self._instances: dict[str, Status] = {}
        self._ready_once: set[str] = set()
        self._listeners: list[Callable[[], None]] = []
        self._is_held = False
        self.front_words: str | None = "starting the front"  # None: it serves
        self.front_pid: int | None = None
        self.is_leaving = False
        self.in_flight = 0
        self.started = clock()
        self._began = self.monotonic()

    def listen(self, listener: Callable[[], None]) -> None:
        self._listeners.append(listener)

    def ignore(self, listener: Callable[[], None]) -> None:
        self._listeners.remove(listener)

    def __getitem__(self, instance: str) -> Status:
        return self._instances[instance]

    def __contains__(self, instance: str) -> bool:
        return instance in self._instances

    def post(self, status: Status) -> None:
        """Replace what is known about an instance."""
        self._instances[status.instance] = status
        if status.is_ready:
            self._ready_once.add(status.model)
        self._changed()

    def remove(self, instance: str) -> None:
        """It is gone and will not come back."""
        del self._instances[instance]
        self._changed()

    def post_model(self, info: ModelInfo) -> None:
        """Replace what is known about a model."""
        self._models[info.name] = info
        self._changed()

    def remove_model(self, model: str) -> None:
        """Nobody may ask for it any more; its instances may still finish what they have."""
        del self._models[model]
        self._ready_once.discard(model)
        self._changed()

    def excuse(self, model: str, *, is_excused: bool) -> None:
        """Whether the readiness of the whole does without it for now."""
        self.post_model(replace(self._models[model], is_excused=is_excused))

    def post_front(self, words: str | None, pid: int | None) -> None:
        """``words`` say why the public port is not served; None: it is."""
        self.front_words, self.front_pid = words, pid
        self._changed()

    def withdraw(self) -> None:
        """Red from now on, and for ever."""
        self.is_leaving = True
        self._changed()

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """All changes within are one change to the listeners."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
            self._changed()

    def _changed(self) -> None:
        if self._is_held:
            return
        for listener in list(self._listeners):
            listener()

    # ---- answers ----------------------------------------------------------------------------------------------

    @property
    def models(self) -> list[ModelInfo]:
        return list(self._models.values())

    @property
    def has_ready(self) -> bool:
        return any(status.is_ready for status in self._instances.values())

    def instances_of(self, model: str) -> list[Status]:
        return [status for status in self._instances.values() if status.model == model]

    def best_of(self, model: str) -> Status | None:
        """The instance that speaks for its model; None: it has none."""
        return min(self.instances_of(model), key=rank, default=None)

    def health(self) -> tuple[bool, str]:
        """(ready, one line of words)."""
        if self.is_leaving:
            plural = "" if self.in_flight == 1 else "s"
            return False, f"draining: {self.in_flight} request{plural} in flight"
        ready, waiting = [], []
        for info in self._models.values():
            status = self.best_of(info.name)
            if status is not None and status.is_ready:
                ready.append(info.name)
            elif not info.is_excused:
                return False, f"stopped: {info.name}" if status is None else status.words(self.clock())
            elif status is not None:
                waiting.append(status.words(self.clock()))
        if self.front_words is not None or not self._models:
            return False, self.front_words or "starting"
        words = f"ready: {', '.join(ready) or 'none'}"
        return True, f"{words} ({'; '.join(waiting)})" if waiting else words

    def weights_of(self, model: str) -> dict[str, str]:
        """By instance, where its weights came from, if those that serve differ; else nothing."""
        found = {one.instance: one.weights or _CONFIGURED for one in self.instances_of(model) if one.is_ready}
        return found if len(set(found.values())) > 1 else {}

    def routes(self) -> Routes:
        models = [self._route(info) for info in self._models.values()]
        return Routes(
            models,
            was_ready=self._ready_once >= {info.name for info in self._models.values() if not info.is_excused},
            others=_endpoints(status for status in self._instances.values() if not self._is_routed(status)),
        )

    def _is_routed(self, status: Status) -> bool:
        return status.is_ready and status.model in self._models

    def _route(self, info: ModelInfo) -> messages.RouteModel:
        best = self.best_of(info.name)
        ready = [status for status in self.instances_of(info.name) if status.is_ready]
        lengths = [status.max_model_len for status in ready if status.max_model_len is not None]
        state = "stopped" if best is None else best.shown_state
        if not ready and (state == "ready" or info.is_excused):
            state = "starting"  # one is coming: changed by command, requests wait though no process is there
        return messages.RouteModel(
            name=info.name,
            served_names=[*info.served_names, *_adapters(info, ready)],
            backend=info.backend,
            state=state,
            words="" if best is None else best.route_words(),
            since=self.started if best is None else best.since or self.clock(),
            instances=_endpoints(ready),
            hold_s=info.hold_s,
            max_model_len=min(lengths, default=None),
            limits=info.limits,
            is_excused=info.is_excused,
        )

    def status(self) -> dict[str, Any]:
        """All that ``ichat status`` shows."""
        is_ready, words = self.health()
        now = self.clock()
        return {
            "ready": is_ready,
            "words": words,
            "uptime_s": round(self.monotonic() - self._began, 1),
            "front": {"pid": self.front_pid, "words": self.front_words or "serving", "in_flight": self.in_flight},
            "instances": [self._show(status, now) for status in self._instances.values()],
            "mixed_weights": {name: mixed for name in self._models if (mixed := self.weights_of(name))},
        }

    def _show(self, status: Status, now: float) -> dict[str, Any]:
        return {
            "model": status.model,
            "instance": status.instance,
            "backend": status.backend,
            "state": "draining" if self.is_leaving and status.is_ready else status.shown_state,
            "words": status.words(now),
            "pid": status.pid,
            "gpus": list(status.gpus),
            "uptime_s": None if status.started is None else round(self.monotonic() - status.started, 1),
            "restarts": status.restarts,
            "weights": status.weights or _CONFIGURED,
        }


def _adapters(info: ModelInfo, ready: list[Status]) -> list[str]:
    """Further names: of the adapters that every ready instance has."""
    first = ready[0].adapters if ready else []
    everywhere = [name for name in first if all(name in status.adapters for status in ready)]
    return [name for name in everywhere if name not in info.served_names]


def _endpoints(statuses: Iterable[Status]) -> list[messages.Instance]:
    return [endpoint for status in statuses if (endpoint := status.endpoint) is not None]
