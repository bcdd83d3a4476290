"""What the launcher and a front say to each other (see ``messages``)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ichat.ipc.states import State

# ---- launcher → front -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StartFront:
    """The first message to a front. Its listening sockets are inherited descriptors, named on its command line."""

    limits: dict[str, Any]  # config.schema.Limits, as JSON
    timeouts: dict[str, Any]  # config.schema.Timeouts, as JSON
    api_keys: dict[str, str]  # key by name
    cors_origins: list[str] = field(default_factory=list)  # as server.cors_origins
    log_format: str = "text"  # of ichat's own lines, as server.log_format
    tls_cert_file: str | None = None
    tls_key_file: str | None = None
    number: int = 0  # of this front process
    processes: int = 1  # how many there are: limits are shared out among them
    log_level: str = "info"


@dataclass(frozen=True)
class LogLevel:
    """How much the front says in its log from now on."""

    level: str


@dataclass(frozen=True)
class Configure:
    """Settings that changed by a reload; they hold for the requests that come from now on."""

    limits: dict[str, Any]
    timeouts: dict[str, Any]
    api_keys: dict[str, str]
    cors_origins: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Instance:
    """One incarnation of a worker."""

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
    hold_s: float = 0.0  # a request may wait so long for a ready instance
    max_model_len: int | None = None  # longest prompt plus answer, in tokens, once it is known
    limits: dict[str, int | None] = field(default_factory=dict)  # the model's limit_… settings, without the prefix
    is_excused: bool = False  # readiness does not depend on it: it is being added or changed by command


@dataclass(frozen=True)
class Routes:
    """The whole routing table; replaces the one before.

    ``others`` live but are sent nothing new: they are draining, or under suspicion. For each of them the front
    answers WorkerDrained as soon as none of its requests is there. An incarnation that is in neither list is dead.
    """

    models: list[RouteModel]
    was_ready: bool  # every model has been ready once (/startupz)
    others: list[Instance] = field(default_factory=list)
    number: int = 0  # counted up by the launcher, for each front


@dataclass(frozen=True)
class TellMetrics:
    """The front process ``asker`` collects the metrics of all: answer with MetricsTexts of the same number."""

    number: int
    asker: int


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
class WorkerDrained:
    """An instance among the ``others`` of the Routes has no request of this front (any more).

    ``routes`` is the number of the last Routes that this front has read: an instance may have been among the others
    before, and back again.
    """

    instance: str
    incarnation: str
    routes: int = 0


@dataclass(frozen=True)
class AskMetrics:
    """Somebody asked this front for metrics: what have the other front processes to tell?"""

    number: int


@dataclass(frozen=True)
class MetricsText:
    """A piece of a front process's own numbers; passed on by the launcher to the front that asks.

    A process that is not there is answered for with an empty text.
    """

    number: int
    asker: int
    process: int
    text: str
    is_last: bool


@dataclass(frozen=True)
class WorkerFault:
    """A worker closed or refused a connection: perhaps the launcher does not know yet."""

    instance: str
    incarnation: str
    words: str
