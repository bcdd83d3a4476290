"""The wiring of the control process: what is made, in which order, and what ends it."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ichat.config.schema import Settings
from ichat.errors import ExitCode
from ichat.launcher import environment, host, listeners, run_dir
from ichat.launcher.board import Board
from ichat.launcher.descriptors import raise_descriptor_limit
from ichat.launcher.front import FrontProcess
from ichat.launcher.fronts import Fronts, Together
from ichat.launcher.health import Probes
from ichat.launcher.instance import Instance
from ichat.launcher.output import Output
from ichat.launcher.probe import status_command
from ichat.launcher.process import Processes
from ichat.launcher.run_dir import RunDir
from ichat.launcher.shutdown import Leaving, shut_down
from ichat.launcher.signals import StopSignals
from ichat.launcher.supervisor import Supervisor
from ichat.launcher.workers import Ground, Worker
from ichat.observe.logs import LineWriter

log = logging.getLogger(__name__)

#: After the third signal everything is killed; this long we wait to see it gone.
_KILLED_S = 0.1


@dataclass(frozen=True)
class Outside:
    """What the launcher was given by whoever started it."""

    signals: StopSignals
    environ: Mapping[str, str]  # for children, without ichat's own settings
    xdg_runtime_dir: str | None
    writer: LineWriter
    notices: Sequence[str] = ()  # what the configuration has to tell although nothing is wrong


def serve(settings: Settings, outside: Outside) -> ExitCode:
    """Serve until told to stop. IchatError: why it could not go on. Nothing is left behind either way."""
    environment.python_of(settings.models[0])
    host.check_host(settings.models[0], environment.accelerator_of(settings.models[0]))
    outside.signals.hold()
    if outside.signals.received:
        return ExitCode.OK  # told to leave before there was anything to leave
    raise_descriptor_limit()
    listeners.check_certificate(settings.server)
    sockets = listeners.listen(settings.server, settings.front.processes)
    try:
        port = sockets[0].getsockname()[1]
        directory = RunDir.claim(run_dir.choose(settings.server.run_dir, port, outside.xdg_runtime_dir))
        try:
            return asyncio.run(_Launcher(settings, outside, sockets, directory).run())
        finally:
            directory.remove()
    finally:
        for sock in sockets:
            sock.close()


class _Launcher:
    def __init__(
        self, settings: Settings, outside: Outside, sockets: Sequence[socket.socket], directory: RunDir
    ) -> None:
        self._settings, self._outside, self._sockets, self._run_dir = settings, outside, sockets, directory
        self._processes = Processes()
        self._board = Board()
        self._probes = Probes(self._board)
        self._has_told = False

    async def run(self) -> ExitCode:
        self._stop, self._hurry, self._abandon = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._output = Output(self._outside.writer, self._settings.server.log_format)
        self._processes.open()
        self._outside.signals.attach(asyncio.get_running_loop(), self._count_signals)
        try:
            return await self._live_unless_abandoned()
        finally:
            self._outside.signals.detach()
            self._processes.close()
            self._probes.close()
            self._output.close()

    def _count_signals(self) -> None:
        for event in (self._stop, self._hurry, self._abandon)[: len(self._outside.signals.received)]:
            event.set()

    async def _live_unless_abandoned(self) -> ExitCode:
        living = asyncio.create_task(self._live(), name="launcher")
        abandoned = asyncio.create_task(self._abandon.wait(), name="third signal")
        await asyncio.wait({living, abandoned}, return_when=asyncio.FIRST_COMPLETED)
        abandoned.cancel()
        if living.done():
            return living.result()
        log.error("shutdown: third signal, everything is killed")
        self._processes.kill_all_now()
        living.cancel()
        await asyncio.wait({living}, timeout=_KILLED_S)
        return ExitCode.DRAIN_ABORTED

    async def _live(self) -> ExitCode:
        if self._outside.signals.received:
            return ExitCode.OK
        await self._probes.open(self._run_dir.probe_socket)
        ground = Ground(self._processes, self._run_dir, self._output, self._settings, self._outside.environ)
        fronts = Fronts(self._front_starter(ground), self._board, self._settings)
        front_supervisors = [Supervisor(ward, self._settings) for ward in fronts.wards]
        workers = [self._supervise_instance(ground)]
        supervisors = [*front_supervisors, *workers]
        self._board.listen(self._tell_when_ready)
        model = self._settings.models[0]
        for notice in (*self._outside.notices, *host.notices(model, environment.accelerator_of(model))):
            log.warning("%s", notice)
        log.info("ichat: listening on %s run_dir=%s", self._address(), self._run_dir.path)
        tasks = [asyncio.create_task(one.run(), name=f"supervise {one.ward.name}") for one in supervisors]
        stopping = asyncio.create_task(self._stop.wait(), name="stop signal")
        try:
            await asyncio.wait({*tasks, stopping}, return_when=asyncio.FIRST_COMPLETED)
            code = await self._leave(fronts, Together(front_supervisors), workers)
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            for task in (*tasks, stopping):
                task.cancel()
            await asyncio.wait((*tasks, stopping))
        for outcome in ended:
            if isinstance(outcome, BaseException):
                raise outcome
        return code

    def _supervise_instance(self, ground: Ground) -> Supervisor:
        """The first model, once: what else is configured is told by the resolver, and served by a later version."""
        model = self._settings.models[0]
        name = f"{model.name}/0"
        instance = Instance(name, model, lambda: Worker(ground, name, model), self._board, self._settings.timeouts)
        return Supervisor(instance, self._settings)

    def _front_starter(self, ground: Ground) -> Callable[[int, str], FrontProcess]:
        count = self._settings.front.processes
        return lambda number, name: FrontProcess(ground, name, listeners.of_process(self._sockets, number, count))

    async def _leave(self, fronts: Fronts, front_processes: Together, workers: Sequence[Supervisor]) -> ExitCode:
        """Commanded, or because something cannot be kept alive: the order is the same."""
        received = self._outside.signals.received
        is_ready = self._board.has_ready and bool(received) and received[0].name != "SIGINT"
        why = received[0].name if received else "failure"
        self._board.withdraw()
        log.info("ichat: leaving (%s) in_flight=%d", why, self._board.in_flight)
        leaving = Leaving(fronts, front_processes, workers, is_ready, self._hurry)
        code = await shut_down(leaving, self._settings.timeouts)
        log.info("ichat: stopped code=%d", code)
        return code

    # ---- words ------------------------------------------------------------------------------------------------

    def _address(self) -> str:
        host, port = self._sockets[0].getsockname()[:2]
        return f"{self._scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    @property
    def _scheme(self) -> str:
        return "http" if self._settings.server.tls_cert_file is None else "https"

    def _tell_when_ready(self) -> None:
        """Once: how to talk to it."""
        if self._has_told or not self._board.health()[0]:
            return
        self._has_told = True
        port = self._sockets[0].getsockname()[1]
        name = self._settings.models[0].served_name
        key = '-H "Authorization: Bearer $ICHAT_API_KEY" ' if self._settings.server.api_key else ""
        body = f'{{"model": "{name}", "messages": [{{"role": "user", "content": "Who are you?"}}]}}'
        log.info(
            "ichat: ready. Talk to it: curl %s://127.0.0.1:%d/v1/chat/completions"
            " -H 'Content-Type: application/json' %s-d '%s'",
            self._scheme,
            port,
            key,
            body,
        )
        log.info("ichat: its state: %s", status_command(self._run_dir.path, port, self._outside.xdg_runtime_dir))
