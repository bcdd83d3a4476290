"""What the launcher knows about every instance, in memory: the one source of readiness, routes and status."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ichat.ipc import messages
from ichat.ipc.messages import Message, Routes, State


@dataclass(frozen=True)
class Status:
    """One instance at one moment. Times are ``time.time()``: they are shown, never waited for."""

    instance: str
    model: str
    served_names: tuple[str, ...]
    backend: str
    state: State = "starting"
    doing: str = "loading"  # what it does instead of being ready: loading, restarting …
    detail: str = ""  # the phase, or what went wrong
    since: float = 0.0  # of the detail
    retry_at: float | None = None  # of a restart that is still to come
    is_hanging: bool = False  # its loop does not answer the launcher
    pid: int | None = None
    started: float | None = None
    restarts: int = 0
    incarnation: str = ""
    socket_path: str = ""

    @property
    def is_ready(self) -> bool:
        return self.state == "ready" and not self.is_hanging

    def words(self, now: float) -> str:
        """For people: ``loading demo: weights, 12 s``."""
        if self.is_ready:
            return f"ready: {self.model}"
        if self.state == "ready":
            return f"not ready: {self.model} does not answer, {_seconds(now - self.since)}"
        if self.retry_at is not None:
            return f"{self.doing} {self.model}: {self.detail} in {_seconds(max(0.0, self.retry_at - now))}"
        if self.state in ("draining", "stopped"):
            return f"{self.state}: {self.model}"
        return f"{self.doing} {self.model}: {self.detail}, {_seconds(now - self.since)}"


def after(status: Status, message: Message, now: float) -> Status:
    """The status once the worker has said this."""
    match message:
        case messages.WorkerPhase(phase=phase) if status.state == "starting":
            return replace(status, detail=phase, since=now)
        case messages.WorkerReady(served_names=names) if status.state == "starting":
            return replace(status, state="ready", served_names=tuple(names), detail="", since=now)
        case messages.WorkerSuspect(words=words) if status.state == "ready":
            return replace(status, state="starting", doing="waiting for", detail=words, since=now)
        case messages.WorkerStopping() if status.state in ("starting", "ready"):
            return replace(status, state="draining", detail="", since=now)
        case messages.WorkerFailed(words=words):
            return replace(status, state="failed", doing="failed", detail=words, since=now)
    return status


def _seconds(duration_s: float) -> str:
    return f"{duration_s:.0f} s"


class Board:
    """All instances, the front, and whether we are leaving. Listeners are called after every change."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self._instances: dict[str, Status] = {}
        self._ready_once: set[str] = set()
        self._listeners: list[Callable[[], None]] = []
        self.front_words: str | None = "starting the front"  # None: it serves
        self.front_pid: int | None = None
        self.is_leaving = False
        self.in_flight = 0
        self.started = clock()

    def listen(self, listener: Callable[[], None]) -> None:
        self._listeners.append(listener)

    def __getitem__(self, instance: str) -> Status:
        return self._instances[instance]

    def post(self, status: Status) -> None:
        """Replace what is known about an instance."""
        self._instances[status.instance] = status
        if status.is_ready:
            self._ready_once.add(status.model)
        self._changed()

    def post_front(self, words: str | None, pid: int | None) -> None:
        """``words`` say why the public port is not served; None: it is."""
        self.front_words, self.front_pid = words, pid
        self._changed()

    def withdraw(self) -> None:
        """Red from now on, and for ever."""
        self.is_leaving = True
        self._changed()

    def _changed(self) -> None:
        for listener in self._listeners:
            listener()

    # ---- answers ----------------------------------------------------------------------------------------------

    @property
    def has_ready(self) -> bool:
        return any(status.is_ready for status in self._instances.values())

    def health(self) -> tuple[bool, str]:
        """(ready, one line of words)."""
        if self.is_leaving:
            plural = "" if self.in_flight == 1 else "s"
            return False, f"draining: {self.in_flight} request{plural} in flight"
        waiting = [status for status in self._best() if not status.is_ready]
        if waiting:
            return False, waiting[0].words(self.clock())
        if self.front_words is not None:
            return False, self.front_words
        return True, "ready: " + ", ".join(status.model for status in self._best())

    def routes(self) -> Routes:
        now = self.clock()
        models = [
            messages.RouteModel(
                name=best.model,
                served_names=list(best.served_names),
                backend=best.backend,
                state=best.state if best.is_ready or best.state != "ready" else "starting",
                words="" if best.is_ready else _route_words(best),
                since=best.since or now,
                instances=[
                    messages.Instance(status.instance, status.incarnation, status.socket_path)
                    for status in self._instances.values()
                    if status.model == best.model and status.is_ready
                ],
            )
            for best in self._best()
        ]
        return Routes(models, was_ready=self._ready_once >= {best.model for best in self._best()})

    def status(self) -> dict[str, Any]:
        """All that ``ichat status`` shows."""
        is_ready, words = self.health()
        now = self.clock()
        instances = [
            {
                "model": status.model,
                "instance": status.instance,
                "backend": status.backend,
                "state": "draining" if self.is_leaving and status.is_ready else status.state,
                "words": status.words(now),
                "pid": status.pid,
                "uptime_s": None if status.started is None else round(now - status.started, 1),
                "restarts": status.restarts,
            }
            for status in self._instances.values()
        ]
        return {
            "ready": is_ready,
            "words": words,
            "uptime_s": round(now - self.started, 1),
            "front": {"pid": self.front_pid, "words": self.front_words or "serving", "in_flight": self.in_flight},
            "instances": instances,
        }

    def _best(self) -> list[Status]:
        """One status a model: that of its best instance."""
        best: dict[str, Status] = {}
        for status in self._instances.values():
            if status.model not in best or (status.is_ready and not best[status.model].is_ready):
                best[status.model] = status
        return list(best.values())


def _route_words(status: Status) -> str:
    if status.state == "ready":
        return "it does not answer"
    return status.detail if status.doing == "loading" else f"{status.doing}: {status.detail}"
