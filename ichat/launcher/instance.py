"""One instance of a model: what its worker says and suffers, posted on the board."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ichat.config.schema import Model, Timeouts
from ichat.errors import EngineError
from ichat.ipc import messages
from ichat.ipc.messages import Message
from ichat.launcher.board import Board
from ichat.launcher.commands import Commands, no_worker
from ichat.launcher.life import ChildProcess, Life
from ichat.launcher.process import Exit
from ichat.launcher.restarts import Ending
from ichat.launcher.socket_probe import Outcome, SocketProbe
from ichat.launcher.status import Status, after

log = logging.getLogger(__name__)


class WorkerProcess(ChildProcess, Protocol):
    """A started worker."""

    incarnation: str
    socket_path: str

    async def ask(self) -> Outcome:
        """A question through its socket."""

    def remember(self, shm: list[str]) -> None:
        """What shared memory must be gone when the worker is."""

    def explain(self, ended: Exit | None) -> str:
        """How it ended, with what the system knows about the cause; None: how its engine did."""


@dataclass(frozen=True)
class InstanceSpec:
    """What an instance is to serve, and on which GPUs (none: those that the environment shows)."""

    name: str  # "qwen/0"
    slot: int  # its place among the instances of the model
    model: Model
    gpus: tuple[str, ...] = ()


class Instance:
    """A supervisor's ward (see ``supervisor.Ward``)."""

    def __init__(
        self, spec: InstanceSpec, start: Callable[[InstanceSpec], WorkerProcess], board: Board, timeouts: Timeouts
    ) -> None:
        self.name, self.spec = spec.name, spec
        self._start, self.board = start, board
        self.timeouts = timeouts  # of the lives that begin from now on
        self.commands = no_worker("its worker has not been started yet")  # to the engine of the life that is
        board.post(
            Status(
                spec.name, spec.model.name, spec.model.backend, detail="starting", since=board.clock(), gpus=spec.gpus
            )
        )

    def wait_for_turn(self) -> None:
        """Another instance starts on its GPUs."""
        self.post(detail=f"waiting for another start on GPU {', '.join(self.spec.gpus)}")

    def take_out(self, *, is_out: bool) -> None:
        """Send it nothing new, or send it requests again."""
        self.post(is_out=is_out)

    def change(self, model: Model) -> None:
        """What of its model changed without a restart. Its process keeps what it was started with."""
        self.spec = replace(self.spec, model=model)

    def begin(self, restarts: int) -> Life:
        worker = self._start(self.spec)
        self.commands = Commands(worker.send)
        self.post(
            state="starting",
            doing="restarting" if restarts else "loading",
            detail="starting",
            retry_at=None,
            is_hanging=False,
            is_unreachable=False,
            was_ready=False,
            own_names=self.spec.model.served_names,
            pid=worker.pid,
            started=self.board.monotonic(),
            weights="",
            restarts=restarts,
            incarnation=worker.incarnation,
            socket_path=worker.socket_path,
        )
        return _WorkerLife(self, worker, self.timeouts)

    def ended(self, ending: Ending) -> None:
        self.commands.fail_all(ending.words)
        self.post(state="starting", doing="cleaning up after", detail=ending.words, pid=None)

    def pausing(self, ending: Ending, attempt: str, after_s: float) -> None:
        retry_at = self.board.clock() + after_s
        self.post(state="starting", doing="restarting", detail=f"{ending.words}; {attempt}", retry_at=retry_at)

    def failed(self, ending: Ending) -> None:
        self.post(state="failed", doing="failed", detail=ending.words, retry_at=None, pid=None)

    def stopped(self) -> None:
        self.commands.fail_all("it is stopped")
        self.post(state="stopped", doing="stopped", detail="", retry_at=None, pid=None)

    @property
    def status(self) -> Status:
        return self.board[self.name]

    def post(self, **changes: Any) -> None:
        self.board.post(replace(self.status, since=self.board.clock(), **changes))


class _WorkerLife(Life):
    kind = "worker"

    def __init__(self, instance: Instance, worker: WorkerProcess, timeouts: Timeouts) -> None:
        super().__init__(worker, timeouts, timeouts.start_s)
        self._instance, self._worker = instance, worker
        self._failed: messages.WorkerFailed | None = None
        self._began = self._phase_began = asyncio.get_running_loop().time()

    def take(self, message: Message) -> None:
        match message:
            case messages.WorkerResidue(shm=shm):
                self._worker.remember(shm)
                return
            case messages.ControlDone():
                self._instance.commands.answer(message)
                return
            case messages.WorkerFailed():
                self._failed = message
            case messages.WorkerReady():
                self.become_ready()
        before = self._instance.status
        status = after(before, message, self._instance.board.clock())
        if status.since != before.since:
            self._phase_began = asyncio.get_running_loop().time()
        self._instance.board.post(status)
        self._tell(before, status)

    def _tell(self, before: Status, status: Status) -> None:
        if status.is_ready and (not before.is_ready or status.weights != before.weights):
            self._tell_mixed_weights(status.model)
        if status.is_ready and not before.is_ready:
            log.info("%s: ready after %.1f s", self._instance.name, asyncio.get_running_loop().time() - self._began)
        elif before.is_ready and status.state == "starting":
            log.warning("%s: not ready: %s", self._instance.name, status.detail)

    def _tell_mixed_weights(self, model: str) -> None:
        if different := self._instance.board.weights_of(model):
            served = ", ".join(f"{name}: {where}" for name, where in different.items())
            log.warning(
                "%s: its instances serve different weights (%s): update_weights again, or restart", model, served
            )

    def suspect(self) -> None:
        log.warning("%s: not ready: %s does not answer", self._instance.name, self.words)
        self._instance.post(is_hanging=True)

    def clear(self) -> None:
        log.warning("%s: %s answers again", self._instance.name, self.words)
        self._instance.post(is_hanging=False)

    def become_ready(self) -> None:
        is_first = not self.was_ready
        super().become_ready()
        if is_first:
            probe = SocketProbe(self._worker.ask, lambda: self._instance.status.state == "ready", self)
            watching = asyncio.create_task(probe.watch(), name=f"socket of {self.words}")
            watching.add_done_callback(self._is_out_of_reach)
            self._also_watching.append(watching)

    def lost(self) -> None:
        log.warning("%s: not ready: its socket is gone (%s); made anew", self._instance.name, self._worker.socket_path)
        self._instance.post(is_unreachable=True)
        self.process.send(messages.ListenAgain())

    def found(self) -> None:
        log.warning("%s: its socket is there again", self._instance.name)
        self._instance.post(is_unreachable=False)

    def _is_out_of_reach(self, watching: asyncio.Task[None]) -> None:
        if not watching.cancelled():
            where = self._worker.socket_path
            self._end(Ending(f"{self.words} is not reached: its socket {where} is gone and stays away", code="E-HANG"))

    def stuck(self) -> Ending:
        in_phase_s = asyncio.get_running_loop().time() - self._phase_began
        return Ending(
            f"not ready within {self._timeouts.start_s:.0f} s, stuck in: {self._instance.status.detail},"
            f" {in_phase_s:.0f} s. If the model needs longer, raise timeouts.start_s",
            code="E-ENG-START-TIMEOUT",
            is_start_timeout=True,
        )

    def died(self, ended: Exit) -> None:
        self._instance.commands.fail_all(f"its worker {ended.words}")
        self._instance.post(state="starting", doing="cleaning up after", detail=f"worker {ended.words}", pid=None)

    def explain(self, ended: Exit) -> Ending:
        if self._failed is not None:
            words = f"{self._failed.words.rstrip('.')}{self._worker.explain(None)}"
            return Ending(words, self._failed.exit_code, self._failed.code)
        return Ending(f"{self.words} {self._worker.explain(ended)}", ended.code, EngineError.code)
