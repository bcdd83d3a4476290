"""The messages between launcher, front and worker, one frozen class each.

On the wire a message is one line of JSON: the fields, and ``type`` with the name of the class. Both ends are
always of one version, since the launcher starts the others from its own tree; an unknown type is a bug.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

#: What a worker does until it is ready, in this order.
Phase = Literal["starting", "imports", "arguments", "weights", "server", "warm-up"]
#: The states of an instance, and of a model (the best of its instances).
State = Literal["starting", "ready", "draining", "stopped", "failed"]


# ---- launcher → worker and front --------------------------------------------------------------------------


@dataclass(frozen=True)
class Ping:
    """Answer at once with a Pong of the same number, from the event loop that serves requests.

    Sent to a front that is up and to a worker that is ready: one that does not answer was stopped or hangs, which
    nobody else can see.
    """

    number: int


# ---- worker and front → launcher --------------------------------------------------------------------------


@dataclass(frozen=True)
class Pong:
    number: int


# ---- launcher → worker ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StartWorker:
    """The first message to a worker; only Pings follow.

    It may hold secrets: it never becomes argv, environment or a log.
    """

    instance: str  # "qwen/0"
    incarnation: str  # a new one for each start
    model: dict[str, Any]  # config.schema.Model, as JSON
    timeouts: dict[str, Any]  # config.schema.Timeouts, as JSON
    socket_path: str  # where the worker's HTTP server listens
    tmp_dir: str  # the worker's own TMPDIR; the launcher removes it when the worker is gone
    accelerator: Literal["cpu", "cuda"]
    api_key: str | None = None
    log_format: str = "text"  # of ichat's own lines, as server.log_format


# ---- worker → launcher ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WorkerPhase:
    phase: Phase


@dataclass(frozen=True)
class WorkerReady:
    """A token came out. Sent again when an engine under suspicion has answered after all."""

    served_names: list[str]
    tasks: list[str]  # "generate", "embed" …


@dataclass(frozen=True)
class WorkerSuspect:
    """The engine has not answered a probe in time: not ready until it does."""

    words: str


@dataclass(frozen=True)
class WorkerResidue:
    """Shared memory that the engine's processes hold now: the launcher unlinks it if the worker cannot."""

    shm: list[str]


@dataclass(frozen=True)
class WorkerStopping:
    """SIGTERM has arrived; requests in flight finish first."""

    in_flight: int


@dataclass(frozen=True)
class WorkerFailed:
    """The last message of a worker that failed; its exit code follows."""

    exit_code: int
    code: str
    words: str


# ---- launcher → front -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StartFront:
    """The first message to a front. Its listening sockets are inherited descriptors, named on its command line."""

    limits: dict[str, Any]  # config.schema.Limits, as JSON
    timeouts: dict[str, Any]  # config.schema.Timeouts, as JSON
    api_keys: list[str]
    log_format: str = "text"  # of ichat's own lines, as server.log_format


@dataclass(frozen=True)
class Instance:
    """One worker that can be sent requests."""

    name: str  # "qwen/0"
    incarnation: str
    socket_path: str


@dataclass(frozen=True)
class RouteModel:
    """One model as the front sees it. ``words`` says in words why it is not ready (`weights, 12 s`)."""

    name: str
    served_names: list[str]
    backend: str
    state: State
    words: str
    since: float  # time.time() of the last change: the front counts the seconds on
    instances: list[Instance]  # the ready ones


@dataclass(frozen=True)
class Routes:
    """The whole routing table; replaces the one before."""

    models: list[RouteModel]
    was_ready: bool  # every model has been ready once (/startupz)


@dataclass(frozen=True)
class Withdraw:
    """Leaving: readiness is red from now on, requests are still served."""


@dataclass(frozen=True)
class Drain:
    """No new request is accepted (503, Retry-After, Connection: close); those in flight may finish until the deadline.

    ``deadline`` is on the clock of ``time.monotonic()``, which all processes of a machine share on Linux. Sent
    again with an earlier deadline it replaces the one before.
    """

    deadline: float


# ---- front → launcher -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FrontUp:
    """The front accepts connections."""


@dataclass(frozen=True)
class FrontLoad:
    """Requests in flight, sent at most ten times a second when it changed."""

    in_flight: int


@dataclass(frozen=True)
class FrontDrained:
    """The last request has ended; ``aborted`` counts those that did not have their own end.

    The deadline cut them off with an error, or their worker was lost since the Withdraw.
    """

    aborted: int


@dataclass(frozen=True)
class WorkerFault:
    """A worker closed or refused a connection: perhaps the launcher does not know yet."""

    instance: str
    incarnation: str
    words: str


Message = (
    Ping
    | Pong
    | StartWorker
    | WorkerPhase
    | WorkerReady
    | WorkerSuspect
    | WorkerResidue
    | WorkerStopping
    | WorkerFailed
    | StartFront
    | Routes
    | Withdraw
    | Drain
    | FrontUp
    | FrontLoad
    | FrontDrained
    | WorkerFault
)
