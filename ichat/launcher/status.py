"""What is known of one instance at one moment, in states for machines and in words for people."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from ichat.config.schema import Model, Timeouts
from ichat.ipc import messages
from ichat.ipc.messages import Message, State

#: A phase of its own in the words, within any phase of the start.
_COMPILING = "compiling kernels"
#: What is done when a life is over: the same words as `Instance.ended` and `died` have.
_OVER = "cleaning up after"


@dataclass(frozen=True)
class ModelInfo:
    """What the configuration says of a model, as far as the front must know it.

    ``is_excused``: it is being added or changed by command, so that it does not count for the readiness of the whole.
    """

    name: str
    served_names: tuple[str, ...]
    backend: str
    hold_s: float
    limits: dict[str, int | None] = field(default_factory=dict)
    is_excused: bool = False

    @classmethod
    def of(cls, model: Model, timeouts: Timeouts) -> ModelInfo:
        limits = {
            "concurrent": model.limit_concurrent,
            "queued": model.limit_queued,
            "body_bytes": model.limit_body_bytes,
            "n": model.limit_n,
            "max_tokens": model.limit_max_tokens,
            "schema_bytes": model.limit_schema_bytes,
        }
        return cls(model.name, model.served_names, model.backend, model.timeouts(timeouts).hold_s, limits)


@dataclass(frozen=True)
class Status:
    """One instance at one moment. Times are ``time.time()``: they are shown, never waited for.

    ``started`` is on the clock of ``time.monotonic()``, which nobody sets: it tells how long ago that was.
    """

    instance: str
    model: str
    backend: str
    state: State = "starting"
    doing: str = "loading"  # what it does instead of being ready: loading, restarting …
    detail: str = ""  # the phase, or what went wrong
    since: float = 0.0  # of the detail
    retry_at: float | None = None  # of a restart that is still to come
    is_hanging: bool = False  # its loop does not answer the launcher
    is_unreachable: bool = False  # its socket is gone: nobody reaches it, whatever its loop does
    is_out: bool = False  # taken out of the routes: it finishes what it has, and gets nothing new
    was_ready: bool = False  # in this life
    pid: int | None = None
    started: float | None = None
    restarts: int = 0
    incarnation: str = ""
    socket_path: str = ""
    max_model_len: int | None = None
    served_names: tuple[str, ...] = ()  # as its worker says: the model's own, and those of adapters
    own_names: tuple[str, ...] = ()  # the model's own when this life began: a name may have been taken back since
    gpus: tuple[str, ...] = ()
    weights: str = ""  # where they came from by command; empty: as configured

    @property
    def could_serve(self) -> bool:
        """Whether or not it is in the routes."""
        return self.state == "ready" and not self.is_hanging and not self.is_unreachable

    @property
    def is_ready(self) -> bool:
        return self.could_serve and not self.is_out

    @property
    def shown_state(self) -> State:
        """Out of the routes is draining, whatever else it is."""
        return "draining" if self.is_out and self.state == "ready" else self.state

    @property
    def endpoint(self) -> messages.Instance | None:
        """Where the front sends requests, or still has some; None: there is no process that could hold one."""
        if self.pid is None or not self.was_ready:
            return None
        return messages.Instance(self.instance, self.incarnation, self.socket_path)

    def words(self, now: float) -> str:
        """For people: ``loading demo: weights, 12 s``."""
        if self.is_ready:
            return f"ready: {self.model} (weights of {self.weights})" if self.weights else f"ready: {self.model}"
        if self.shown_state in ("draining", "stopped"):
            return f"{self.shown_state}: {self.model}"
        if self.state == "ready":
            what = "cannot be reached" if self.is_unreachable else "does not answer"
            return f"not ready: {self.model} {what}, {_seconds(now - self.since)}"
        if self.retry_at is not None:
            return f"{self.doing} {self.model}: {self.detail} in {_seconds(self.retry_at - now)}"
        return f"{self.doing} {self.model}: {self.detail}, {_seconds(now - self.since)}"

    @property
    def adapters(self) -> list[str]:
        return [name for name in self.served_names if name not in self.own_names]

    def route_words(self) -> str:
        """Why it is not ready, for the front, which counts the seconds by itself."""
        if self.is_ready or self.is_out:
            return ""
        if self.state == "ready":
            return "it cannot be reached" if self.is_unreachable else "it does not answer"
        return self.detail if self.doing == "loading" else f"{self.doing}: {self.detail}"


def after(status: Status, message: Message, now: float) -> Status:
    """The status once the worker has said this; what it says when its life is over changes nothing."""
    return status if status.doing == _OVER else _after(status, message, now)


def _after(status: Status, message: Message, now: float) -> Status:
    changes: dict[str, Any]
    match message:
        case messages.WorkerPhase() | messages.WorkerCompiling() if status.state == "starting":
            changes = _in_start(status, message, now)
        case messages.WorkerReady(served_names=names) if status.state == "ready":
            return replace(status, served_names=tuple(names), weights=message.weights)
        case messages.WorkerReady(served_names=names, max_model_len=longest) if status.state == "starting":
            changes = {"state": "ready", "was_ready": True, "max_model_len": longest, "detail": ""}
            changes |= {"served_names": tuple(names), "weights": message.weights}
        case messages.WorkerSuspect(words=words) if status.state == "ready":
            changes = {"state": "starting", "doing": "waiting for", "detail": words}
        case messages.WorkerResting(words=words) if status.state in ("starting", "ready"):
            changes = {"state": "starting", "doing": "resting", "detail": words}
        case messages.WorkerStopping() if status.state in ("starting", "ready"):
            changes = {"state": "draining", "detail": ""}
        case messages.WorkerFailed(words=words):
            # Whether it is started again is the supervisor's to say: until then requests may wait for it.
            changes = {"state": "starting", "doing": _OVER, "detail": words}
        case _:
            return status
    return replace(status, **{"since": now, **changes})


def _in_start(status: Status, message: messages.WorkerPhase | messages.WorkerCompiling, now: float) -> dict[str, Any]:
    if isinstance(message, messages.WorkerPhase):
        return {"detail": message.phase}
    # Its seconds are those of the compiling, not of the last kernel.
    since = status.since if status.detail.startswith(_COMPILING) else now
    return {"detail": f"{_COMPILING}, {message.done} done", "since": since}


_BEST_FIRST: dict[State, int] = {"ready": 0, "starting": 1, "draining": 2, "failed": 3, "stopped": 4}


def rank(status: Status) -> int:
    """How good a state is, for the state of the whole model: that of its best instance."""
    return 0 if status.is_ready else max(1, _BEST_FIRST[status.shown_state])


def _seconds(duration_s: float) -> str:
    """Of the wall clock, which may have been set back."""
    return f"{max(0.0, duration_s):.0f} s"
