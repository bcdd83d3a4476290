"""The wiring of the control process: what is made, in which order, and what ends it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ichat.config.notices import open_port
from ichat.config.resolve import Resolved
from ichat.config.schema import Admin, Model, Server, Settings
from ichat.errors import ExitCode, IchatError, exit_code_of
from ichat.launcher import environment, host, listeners, run_dir
from ichat.launcher.admin import AdminPort
from ichat.launcher.aside import Aside
from ichat.launcher.board import Board
from ichat.launcher.control import Control
from ichat.launcher.descriptors import raise_descriptor_limit, raise_file_size_limit
from ichat.launcher.devices import visible_gpus
from ichat.launcher.driver import check_driver
from ichat.launcher.fleet import Fleet
from ichat.launcher.front import FrontProcess
from ichat.launcher.fronts import Fronts, Together
from ichat.launcher.greeting import Greeting
from ichat.launcher.health import Probes
from ichat.launcher.orders import orders_of
from ichat.launcher.output import Output
from ichat.launcher.process import Processes
from ichat.launcher.reload import Reloader
from ichat.launcher.run_dir import RunDir
from ichat.launcher.run_dir_watch import RunDirWatch
from ichat.launcher.shutdown import Leaving, shut_down
from ichat.launcher.signals import StopSignals
from ichat.launcher.supervisor import Supervisor
from ichat.launcher.watch import Watch
from ichat.launcher.workers import Ground, Worker
from ichat.observe.logs import LineWriter

if TYPE_CHECKING:
    from ichat.launcher.gateway import Registration

log = logging.getLogger(__name__)

#: After the third signal everything is killed; this long we wait to see it gone.
_KILLED_S = 0.1


@dataclass(frozen=True)
class Outside:
    """What the launcher was given by whoever started it."""

    signals: StopSignals
    environ: Mapping[str, str]  # for children, without ichat's own settings
    writer: LineWriter
    load: Callable[[], Resolved]  # read and check the configuration again


@dataclass(frozen=True)
class Ports:
    """Sockets that listen already. ``admin`` is empty where no token is set."""

    public: Sequence[socket.socket]
    admin: Sequence[socket.socket]


def serve(resolved: Resolved, outside: Outside) -> ExitCode:
    """Serve until told to stop. IchatError: why it could not go on. Nothing is left behind either way."""
    for model in resolved.settings.models:
        check(model, outside.environ)
    outside.signals.hold()
    if outside.signals.received:
        return ExitCode.OK  # told to leave before there was anything to leave
    raise_descriptor_limit()
    raise_file_size_limit()
    settings, environ = resolved.settings, resolved.sources.environ
    with contextlib.ExitStack() as stack:
        public = _listen(stack, settings.server, settings.front.processes)
        admin = _listen(stack, settings.admin) if settings.admin.token is not None else []
        port = public[0].getsockname()[1]
        directory = RunDir.claim(run_dir.choose(settings.server.run_dir, port, environ.get("XDG_RUNTIME_DIR")))
        stack.callback(directory.remove)
        return asyncio.run(_Launcher(resolved, outside, Ports(public, admin), directory).run())


def _listen(stack: contextlib.ExitStack, where: Server | Admin, processes: int = 1) -> list[socket.socket]:
    sockets = listeners.listen(where, processes)
    for sock in sockets:
        stack.callback(sock.close)
    return sockets


def check(model: Model, environ: Mapping[str, str]) -> None:
    """IchatError where this installation or this machine cannot serve the model."""
    host.check_machine(model)
    python = Path(environment.python_of(model))
    accelerator = environment.accelerator_of(model)
    host.check_host(model, accelerator)
    if accelerator == "cuda":
        check_driver(model.name, python.parents[1], {**environ, **model.env})


def _set_rules(supervisors: Sequence[Supervisor], settings: Settings) -> None:
    for supervisor in supervisors:
        supervisor.rules = (settings.restarts, settings.timeouts)


class _Launcher:
    def __init__(self, resolved: Resolved, outside: Outside, ports: Ports, directory: RunDir) -> None:
        self._resolved, self._settings = resolved, resolved.settings
        self._outside, self._ports, self._run_dir = outside, ports, directory
        self._admin: AdminPort | None = None
        self._processes = Processes()
        self._board = Board()
        self._reloads: set[asyncio.Task[None]] = set()

    async def run(self) -> ExitCode:
        self._stop, self._hurry, self._abandon = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._hup = asyncio.Event()
        self._output = Output(self._outside.writer, self._settings.server.log_format)
        self._processes.open()
        self._outside.signals.attach(asyncio.get_running_loop(), self._count_signals, self._hup.set)
        try:
            return await self._live_unless_abandoned()
        finally:
            self._outside.signals.detach()
            self._processes.close()
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
        self._make()
        await self._probes.open(self._run_dir.probe_socket)
        try:
            self._greet()
            return await self._serve()
        finally:
            self._probes.close()
            if self._admin is not None:
                await self._admin.close()

    def _make(self) -> None:
        settings = self._settings
        self._ground = Ground(self._processes, self._run_dir, self._output, settings, self._outside.environ)
        self._fronts = Fronts(self._start_front, self._board, settings)
        self._fleet = Fleet(
            lambda spec: Worker(self._ground, spec),
            self._board,
            self._fronts,
            settings,
            visible_gpus(self._outside.environ),
        )
        self._reloader = Reloader(self._fleet, self._fronts, self._outside.load, self._check)
        self._reloader.hidden = self._resolved.hidden
        self._reloader.names_models = self._resolved.names_models
        self._reloader.listen(self._ground.take)
        self._control = Control(self._board, self._fleet, self._reloader, self._fronts)
        self._probes = Probes(self._board, self._control.status)
        self._probes.obey(orders_of(self._control))
        self._run_dir_watch = RunDirWatch(self._run_dir, self._probes)
        if (token := settings.admin.token) is not None:
            self._admin = AdminPort(self._ports.admin, token.get_secret_value(), self._control, settings.timeouts)
        port = self._ports.public[0].getsockname()[1]
        self._registration: Registration | None = None
        if settings.gateway.address is not None:
            from ichat.launcher.gateway import registration_for  # only who has a gateway pays for it

            self._registration = registration_for(settings, self._board, port, secrets.token_hex(8))
            self._reloader.listen(self._registration.take)

    def _check(self, model: Model) -> None:
        check(model, self._outside.environ)

    def _start_front(self, number: int, name: str) -> FrontProcess:
        sockets = listeners.of_process(self._ports.public, number, self._settings.front.processes)
        return FrontProcess(self._ground, name, sockets)

    def _greet(self) -> None:
        greeting = Greeting(self._ports.public[0], self._run_dir.path, self._resolved)
        self._board.listen(lambda: greeting.tell_when_ready(self._board))
        for notice in self._resolved.notices:
            log.warning("%s", notice)
        for model in self._settings.models:
            for notice in host.notices(model, environment.accelerator_of(model)):
                log.warning("%s", notice)
        for notice in open_port(self._settings.server, self._ports.public[0].getsockname()[1]):
            log.warning("%s", notice)
        log.info("ichat: listening on %s run_dir=%s", greeting.address, self._run_dir.path)

    async def _serve(self) -> ExitCode:
        """Until a signal to stop, or until something cannot be kept alive; then leave."""
        fronts = [Supervisor(ward, (self._settings.restarts, self._settings.timeouts)) for ward in self._fronts.wards]
        watched = [asyncio.create_task(one.run(), name=f"supervise {one.ward.name}") for one in fronts]
        self._reloader.listen(lambda settings: _set_rules(fronts, settings))
        helpers = [
            asyncio.create_task(self._reload_on_signal(), name="SIGHUP"),
            asyncio.create_task(_for_ever("the admin port", self._open_admin()), name="admin port"),
            asyncio.create_task(
                _for_ever("the run directory's watch", self._run_dir_watch.run()), name="run directory"
            ),
            *self._watch_file(),
        ]
        stopping = asyncio.create_task(self._stop.wait(), name="stop signal")
        try:
            self._fleet.start_all()
            if self._registration is not None:
                self._registration.start()
            ends: set[asyncio.Future[Any]] = {*watched, *helpers, stopping, self._fleet.over}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            self._board.withdraw()  # red before anything else, whatever is being changed
            for helper in helpers:
                helper.cancel()
            await self._reloader.close()
            code = await self._leave(fronts)
            failure = self._failure_among([*watched, *helpers, self._fleet.over])
            log.info("ichat: stopped code=%d", code if failure is None else exit_code_of(failure))
            if failure is not None:
                raise failure
            return code
        finally:
            tasks = {*watched, *helpers, stopping}
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await self._fleet.close()

    async def _open_admin(self) -> None:
        """What it needs takes a while to import: the children come first."""
        if self._admin is not None:
            try:
                await self._admin.open()
            except BaseException:
                for sock in self._ports.admin:  # nobody answers there
                    sock.close()
                raise
            host, port = self._ports.admin[0].getsockname()[:2]
            log.info("ichat: admin port %s:%d", host, port)

    @staticmethod
    def _failure_among(ends: Sequence[asyncio.Future[Any]]) -> BaseException | None:
        found = (end.exception() for end in ends if end.done() and not end.cancelled())
        return next((error for error in found if error is not None), None)

    async def _leave(self, fronts: Sequence[Supervisor]) -> ExitCode:
        """Commanded, or because something cannot be kept alive: the order is the same."""
        received = self._outside.signals.received
        is_ready = self._board.has_ready and bool(received) and received[0].name != "SIGINT"
        why = received[0].name if received else "failure"
        log.info("ichat: leaving (%s) in_flight=%d", why, self._board.in_flight)
        workers = [member.supervisor for member in self._fleet.members.values()]
        leaving = Leaving(
            self._fronts, Together(fronts), workers, is_ready, self._hurry, self._registration,
            self._processes.must_end_by,
        )  # fmt: skip
        return await shut_down(leaving, self._reloader.settings.timeouts)

    # ---- reloads that nobody waits for ------------------------------------------------------------------------

    async def _reload_on_signal(self) -> None:
        while True:
            await self._hup.wait()
            self._hup.clear()
            await self._begin_reload()

    def _watch_file(self) -> list[asyncio.Task[None]]:
        document = self._resolved.sources.document
        if document is None:
            return []
        reads = Aside("looking at the configuration file")
        watch = Watch(document.name, document.digest, lambda: self._reloader.settings, self._begin_reload, reads)
        return [asyncio.create_task(_for_ever("reload.watch", watch.run()), name="watch")]

    async def _begin_reload(self) -> None:
        """Not waited for: one that hangs is left by the next."""
        task = asyncio.create_task(self._reload_and_tell(), name="reload")
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reload_and_tell(self) -> None:
        try:
            await self._reloader.reload()
        except IchatError as error:
            log.debug("reload: %s", error)  # told where it was refused
        except Exception:
            log.exception("reload: failed by a bug of ichat; what serves goes on")


async def _for_ever(name: str, work: Coroutine[Any, Any, None]) -> None:
    """Never returns: what fails in it takes that comfort away, and not the service."""
    try:
        await work
    except (OSError, ImportError, IchatError) as error:
        log.error("ichat: %s does not work any more (%s); everything else goes on", name, error)
    except Exception:
        log.exception("ichat: %s does not work any more, by a bug of ichat; everything else goes on", name)
    await asyncio.Event().wait()
