"""One worker's life: hear what to serve, run the backend, tell the launcher what happens, leave with the right code."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import uvloop

from ichat.backends import load_backend
from ichat.backends.base_backend import BaseBackend
from ichat.backends.framework_args import FrameworkArgs
from ichat.config.schema import Model, Timeouts
from ichat.errors import ExitCode, IchatError, ModelMissingError, system_failure
from ichat.ipc import messages
from ichat.ipc.channel import Channel
from ichat.observe.logs import set_up_logs
from ichat.worker.argv import backend_argv
from ichat.worker.commands import Commands
from ichat.worker.compile_phase import CompilePhase


class Sends(Protocol):
    """Where the news go: the channel to the launcher."""

    def send(self, message: messages.Message) -> None: ...


class _Report:
    """A backend's news, as messages to the launcher. What has not changed is not sent again."""

    def __init__(self, channel: Sends, clock: Callable[[], float] = time.monotonic) -> None:
        self._channel = channel
        self._shm: list[str] = []
        self._is_resting = False
        self._phase: messages.Phase | None = None  # of the start; None once it is over
        self._compiles = CompilePhase(clock)
        self.ready_message: Callable[[], messages.WorkerReady] | None = None

    def phase(self, phase: messages.Phase) -> None:
        self._phase = phase
        self._channel.send(messages.WorkerPhase(phase))

    def compiling(self, running: int, done: int) -> None:
        if self._phase is None:
            return  # ready: whoever has a request there waits, and nothing else does
        match self._compiles.see(running, done):
            case "compiles":
                self._channel.send(messages.WorkerCompiling(done))
            case "is over":
                self._channel.send(messages.WorkerPhase(self._phase))

    def suspect(self, words: str) -> None:
        self._channel.send(messages.WorkerSuspect(words))

    def recovered(self) -> None:
        if not self._is_resting:  # an engine that rests answers probes too
            self.ready()

    def resting(self, words: str) -> None:
        self._is_resting = True
        self._channel.send(messages.WorkerResting(words))

    def ready(self) -> None:
        self._is_resting, self._phase = False, None
        if self.ready_message is not None:
            self._channel.send(self.ready_message())

    def stopping(self, in_flight: int) -> None:
        self._channel.send(messages.WorkerStopping(in_flight))

    def residue(self, shm: list[str]) -> None:
        if shm != self._shm:
            self._shm = shm
            self._channel.send(messages.WorkerResidue(shm))


def serve(control_fd: int) -> None:
    """Serve until told to stop. Ends the process: engines leave threads and exit handlers that would hang or fail."""
    code = uvloop.run(_serve(socket.socket(fileno=control_fd)))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


async def _serve(control: socket.socket) -> ExitCode:
    channel = await Channel.open(control)
    start = await channel.receive()
    if not isinstance(start, messages.StartWorker):
        return ExitCode.OK  # the launcher has gone before it said anything
    lines = set_up_logs(start.log_format, with_libraries=False)
    try:
        return await _live(start, channel)
    except IchatError as error:
        channel.send(messages.WorkerFailed(int(error.exit_code), error.code, str(error)))
        return error.exit_code
    except Exception as error:  # noqa: BLE001  our bug: told with its traceback, and with its own exit code
        channel.send(messages.WorkerFailed(int(ExitCode.SOFTWARE), "E-INTERNAL", repr(error)))
        traceback.print_exc()
        return ExitCode.SOFTWARE
    finally:
        await channel.flush()
        lines.close()


async def _live(start: messages.StartWorker, channel: Channel) -> ExitCode:
    report = _Report(channel)
    check_model_path(start.model["name"], start.model["model_path"])
    backend = _backend(start, report)
    report.ready_message = lambda: messages.WorkerReady(
        backend.served_names(), backend.tasks(), backend.engine_control().max_model_len(), backend.weights()
    )
    commands = Commands(backend, channel.send)
    _own_signals(backend)
    companions = [
        asyncio.create_task(_announce(backend, report), name="announce"),
        asyncio.create_task(_obey(channel, backend, commands), name="control"),
    ]
    try:
        await backend.run()
    finally:
        for companion in companions:
            companion.cancel()
        commands.close()
    return ExitCode.DRAIN_ABORTED if backend.was_cut_off else ExitCode.OK


def check_model_path(model: str, path: str | None) -> None:
    """IchatError where a local model has gone since it was checked, before an engine takes a minute to say less."""
    subject = f"models.{model}.model_path"
    try:
        if path is None or not path.startswith("/") or Path(path).exists():
            return
    except OSError as error:
        raise system_failure(subject, error) from None
    raise ModelMissingError(f"{subject}: {path}: is not there any more. Bring it back, then `ichat restart {model}`.")


def _backend(start: messages.StartWorker, report: _Report) -> BaseBackend:
    args = FrameworkArgs(
        instance=start.instance,
        model=Model.model_validate(start.model),
        timeouts=Timeouts.model_validate(start.timeouts),
        socket_path=start.socket_path,
        tmp_dir=start.tmp_dir,
        accelerator=start.accelerator,
        news=report,
        api_key=start.api_key,
    )
    return load_backend(args.model.backend)(args, backend_argv(args), asyncio.Event())


def _own_signals(backend: BaseBackend) -> None:
    """Signals are ours from now on; no library may take them. A handler only notes and returns."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, backend.request_stop)
    # SGLang's processes report their end to their parent in this way; the default would dump core.
    loop.add_signal_handler(signal.SIGQUIT, backend.fail, "a process of the engine reported a failure (SIGQUIT)")


async def _announce(backend: BaseBackend, report: _Report) -> None:
    await backend.wait_for_server_ready()
    report.ready()


async def _obey(channel: Channel, backend: BaseBackend, commands: Commands) -> None:
    async for message in channel:
        match message:
            case messages.Ping(number=number):
                channel.send(messages.Pong(number))
            case messages.ListenAgain():
                commands.listen_again()
            case messages.Control():
                commands.begin(message)
    backend.request_stop()  # the launcher has gone: nobody will send us anything any more
