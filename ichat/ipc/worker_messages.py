"""What the launcher and a worker say to each other (see ``messages``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ichat.ipc.states import Phase

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


@dataclass(frozen=True)
class Control:
    """A command of the admin port, answered by a ControlDone of the same number."""

    number: int
    action: str  # "sleep", "flush_cache" …: docs/admin.md
    arguments: dict[str, Any]


@dataclass(frozen=True)
class ListenAgain:
    """The socket of the HTTP server is gone: make it anew, with its directories, and keep every connection."""


# ---- worker → launcher ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WorkerPhase:
    phase: Phase


@dataclass(frozen=True)
class WorkerCompiling:
    """Within a phase of the start kernels are being compiled; a WorkerPhase says that this is over."""

    done: int  # compilers that have ended since the start


@dataclass(frozen=True)
class WorkerReady:
    """A token came out. Sent again when an engine under suspicion has answered after all."""

    served_names: list[str]  # the model's own, and those of its adapters
    tasks: list[str]  # "generate", "embed" …
    max_model_len: int | None = None  # longest prompt plus answer, in tokens
    weights: str = ""  # where they came from by command; empty: as configured


@dataclass(frozen=True)
class WorkerSuspect:
    """The engine has not answered a probe in time: not ready until it does."""

    words: str


@dataclass(frozen=True)
class WorkerResting:
    """By command the engine serves nothing now: it sleeps, is paused or takes other weights.

    Not ready until a WorkerReady says that it was told to go on, and has answered a real request.
    """

    words: str  # "asleep (level 1)"


@dataclass(frozen=True)
class WorkerResidue:
    """Shared memory that the engine's processes hold now: the launcher unlinks it if the worker cannot."""

    shm: list[str]


@dataclass(frozen=True)
class WorkerStopping:
    """SIGTERM has arrived; requests in flight finish first."""

    in_flight: int


@dataclass(frozen=True)
class ControlDone:
    """``status`` is that of the HTTP answer; 501 where the engine, or this machine, cannot do it."""

    number: int
    status: int
    body: dict[str, Any]


@dataclass(frozen=True)
class WorkerFailed:
    """The last message of a worker that failed; its exit code follows."""

    exit_code: int
    code: str
    words: str
