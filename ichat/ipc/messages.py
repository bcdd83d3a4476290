"""The messages between launcher, front and worker, one frozen class each.

On the wire a message is one line of JSON: the fields, and ``type`` with the name of the class. Both ends are
always of one version, since the launcher starts the others from its own tree; an unknown type is a bug.
"""

from __future__ import annotations

from dataclasses import dataclass

from ichat.ipc.front_messages import (
    AskMetrics,
    Configure,
    Drain,
    FrontDrained,
    FrontLoad,
    FrontUp,
    Instance,
    LogLevel,
    MetricsText,
    RouteModel,
    Routes,
    StartFront,
    TellMetrics,
    Withdraw,
    WorkerDrained,
    WorkerFault,
)
from ichat.ipc.states import Phase, State
from ichat.ipc.worker_messages import (
    Control,
    ControlDone,
    ListenAgain,
    StartWorker,
    WorkerCompiling,
    WorkerFailed,
    WorkerPhase,
    WorkerReady,
    WorkerResidue,
    WorkerResting,
    WorkerStopping,
    WorkerSuspect,
)

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


Message = (
    Ping
    | Pong
    | StartWorker
    | WorkerPhase
    | WorkerCompiling
    | WorkerReady
    | WorkerSuspect
    | WorkerResting
    | WorkerResidue
    | WorkerStopping
    | WorkerFailed
    | Control
    | ListenAgain
    | ControlDone
    | StartFront
    | Configure
    | LogLevel
    | Routes
    | Withdraw
    | Drain
    | FrontUp
    | FrontLoad
    | FrontDrained
    | WorkerDrained
    | TellMetrics
    | AskMetrics
    | MetricsText
    | WorkerFault
)

__all__ = [
    "AskMetrics",
    "Configure",
    "Control",
    "ControlDone",
    "Drain",
    "FrontDrained",
    "FrontLoad",
    "FrontUp",
    "Instance",
    "ListenAgain",
    "LogLevel",
    "Message",
    "MetricsText",
    "Phase",
    "Ping",
    "Pong",
    "RouteModel",
    "Routes",
    "StartFront",
    "StartWorker",
    "State",
    "TellMetrics",
    "Withdraw",
    "WorkerCompiling",
    "WorkerDrained",
    "WorkerFailed",
    "WorkerFault",
    "WorkerPhase",
    "WorkerReady",
    "WorkerResidue",
    "WorkerResting",
    "WorkerStopping",
    "WorkerSuspect",
]
