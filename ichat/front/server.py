"""The front as a whole: what the launcher tells it, the sweep over its connections, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import resource
import signal
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from ichat.errors import ExitCode, TemporaryError
from ichat.front import metrics_text
from ichat.front.access import Keyring
from ichat.front.client_connection import ClientConnection
from ichat.front.errors import shutting_down
from ichat.front.metrics_desk import MetricsDesk
from ichat.front.reception import Reception
from ichat.front.routing import RoutingTable
from ichat.front.settings import Live, share_of_limits
from ichat.front.traffic import Traffic
from ichat.front.worker import Worker
from ichat.ipc import messages
from ichat.ipc.channel import Channel
from ichat.observe.logs import set_level

if TYPE_CHECKING:
    from ichat.config.schema import Limits, Timeouts
    from ichat.front.certificate import Certificate

_log = logging.getLogger(__name__)

_BACKLOG = 4096
#: Descriptors for anything but a client and the worker that serves it.
_RESERVED_DESCRIPTORS = 128
#: So long before the deadline what is left is ended: time for the last words to leave.
_LAST_WORDS_S = 1.0
_DRAIN_POLL_S = 0.02
#: Of a terminal, and of log rotation that takes every process of a container for a daemon.
_PASSED_OVER = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class Front:
    """Serves the listening sockets until it is told to stop, or the launcher is gone."""

    def __init__(self, start: messages.StartFront, channel: Channel) -> None:
        self._number, self._processes = start.number, start.processes
        self._live_limits = Live(**share_of_limits(start.limits, start.processes))
        self._live_timeouts = Live(**start.timeouts)
        self._timeouts = timeouts = cast("Timeouts", self._live_timeouts)
        self._channel = channel
        self._traffic = Traffic()
        self._routes_number = 0
        self._servers: list[asyncio.Server] = []
        self._table = RoutingTable(timeouts, self._send, start.processes)
        self._keyring = Keyring(start.api_keys)
        limits = cast("Limits", self._live_limits)
        self._reception = Reception(limits, timeouts, self._keyring, self._table, self._traffic)
        self._reception.origins.replace(start.cors_origins)
        self._reception.connection_limit = _affordable(limits.connections, start.processes)
        self._reception.metrics = MetricsDesk(
            self._render, self._ready_workers, timeouts, channel.send, start.number, start.processes
        )
        self._certificate = _certificate(start)
        self._load_told = 0
        self._lost_before: int | None = None  # requests that workers had lost before the withdrawal
        self._deadline = float("inf")
        self._drain_news = asyncio.Event()
        self._draining: asyncio.Task[None] | None = None
        self._is_drained = False

    async def run(self, listeners: list[socket.socket]) -> ExitCode:
        """Connections wait in the kernel until the launcher has said what there is to serve.

        Only the launcher ends a front: by SIGTERM once it has drained, or by its own end. Before that SIGTERM changes
        nothing, since a service manager may send it to every process at once (systemd's KillMode=control-group).
        """
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, self._told_to_leave, stop)
        for number in _PASSED_OVER:
            loop.add_signal_handler(number, _log.info, "front: %s changes nothing", number.name)
        self._servers = [
            await loop.create_server(self._new_connection, sock=listener, backlog=_BACKLOG, start_serving=False)
            for listener in listeners
        ]
        self._channel.send(messages.FrontUp())
        sweep = asyncio.create_task(self._sweep(), name="sweep")
        obey = asyncio.create_task(self._obey(), name="messages")
        stopped = asyncio.create_task(stop.wait(), name="stop")
        try:
            done, _ = await asyncio.wait({sweep, obey, stopped}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # what broke there ends this process, with its traceback
            return ExitCode.OK if stopped in done else ExitCode.SOFTWARE
        finally:
            for server in self._servers:
                server.close()
            for task in (sweep, obey, stopped):
                task.cancel()
            if self._draining is not None:
                self._draining.cancel()
            self._channel.close()

    def _told_to_leave(self, stop: asyncio.Event) -> None:
        if self._is_drained:
            stop.set()
        else:
            _log.info("front: SIGTERM changes nothing before the launcher has had it drain")

    def _new_connection(self) -> ClientConnection:
        if self._certificate is None:
            return ClientConnection(self._reception)
        from ichat.front.secure_connection import SecureConnection

        return SecureConnection(self._reception, self._certificate)

    # ---- the launcher's words -----------------------------------------------------------------------------

    async def _obey(self) -> None:
        is_serving = False
        async for message in self._channel:
            match message:
                case messages.Ping(number=number):
                    self._channel.send(messages.Pong(number))
                case messages.Routes():
                    self._routes_number = message.number
                    self._table.replace(message)
                    if not is_serving:
                        is_serving = True
                        for server in self._servers:
                            await server.start_serving()
                case messages.Withdraw():
                    self._withdraw()
                case messages.Drain(deadline=deadline):
                    self._drain(deadline)
                case _:
                    self._obey_beside_requests(message)
        _log.warning("front: the launcher is gone, leaving")

    def _obey_beside_requests(self, message: messages.Message) -> None:
        match message:
            case messages.Configure():
                self._configure(message)
            case messages.LogLevel(level=level):
                set_level(level)
            case messages.TellMetrics():
                self._reception.metrics.tell(message)
            case messages.MetricsText():
                self._reception.metrics.heard(message)
            case _:
                raise TypeError(f"a front is not told {type(message).__name__}")

    def _send(self, message: messages.Message) -> None:
        if isinstance(message, messages.WorkerDrained):
            message = dataclasses.replace(message, routes=self._routes_number)
        self._channel.send(message)

    def _configure(self, message: messages.Configure) -> None:
        """Everybody has these very objects. A head that was judged by the old ones is judged again."""
        self._live_limits.replace(share_of_limits(message.limits, self._processes))
        self._live_timeouts.replace(message.timeouts)
        self._reception.bodies.configure()
        self._keyring.replace(message.api_keys)
        self._reception.origins.replace(message.cors_origins)
        self._reception.known.forget()
        self._reception.connection_limit = _affordable(self._live_limits.connections, self._processes)
        if self._certificate is not None:
            self._certificate.reload()

    # ---- metrics ------------------------------------------------------------------------------------------

    def _render(self) -> str:
        self._traffic.connections = len(self._reception.clients)
        loads: dict[tuple[str, str], int] = {}
        for worker in self._table.workers:
            name = worker.instance.name
            key = (metrics_text.model_of(name), name)
            loads[key] = loads.get(key, 0) + worker.in_flight
        return metrics_text.render(self._traffic, loads, self._number)

    def _ready_workers(self) -> list[Worker]:
        return [worker for model in self._table.models if model.is_ready for worker in model.workers]

    def _tell_load(self) -> None:
        if self._traffic.in_flight != self._load_told:
            self._load_told = self._traffic.in_flight
            self._channel.send(messages.FrontLoad(self._load_told))

    # ---- time ---------------------------------------------------------------------------------------------

    async def _sweep(self) -> None:
        """The only timer of all connections: coarse, and nothing for a request to set or cancel."""
        while True:
            await asyncio.sleep(self._timeouts.sweep_every_s)
            now = time.monotonic()
            clients = self._reception.clients
            for client in [client for client in clients if client.deadline <= now]:
                client.expire()
            for client in [client for client in clients if client.is_deaf]:
                client.look_for_leaving()
            if limit_s := self._timeouts.first_byte_s:
                for client in list(clients):
                    client.look_for_answer(limit_s, now)
            self._table.dismiss()
            self._tell_load()
            self._traffic.refill_retries()
            if self._certificate is not None:
                self._certificate.refresh()
            for worker in self._table.workers:
                worker.close_idle_since(now - self._timeouts.worker_idle_s)

    # ---- the end ------------------------------------------------------------------------------------------

    def _withdraw(self) -> None:
        self._reception.is_withdrawn = True
        if self._lost_before is None:
            self._lost_before = self._traffic.lost

    def _drain(self, deadline: float) -> None:
        self._withdraw()
        self._deadline = min(self._deadline, deadline)
        self._drain_news.set()
        if self._draining is None:
            self._reception.begin_drain()
            for client in list(self._reception.clients):
                client.close_if_idle()
            self._draining = asyncio.create_task(self._drain_out(), name="drain")

    async def _drain_out(self) -> None:
        await self._until(self._is_served, margin_s=_LAST_WORDS_S)
        assert self._lost_before is not None
        aborted = self._traffic.in_flight + self._traffic.lost - self._lost_before
        failure = shutting_down(self._timeouts.retry_after_s)
        for client in list(self._reception.clients):
            client.end(failure)
        await self._until(self._is_flushed, margin_s=_LAST_WORDS_S / 2)
        self._is_drained = True
        self._channel.send(messages.FrontDrained(aborted))
        _log.info("front: drained aborted=%s", aborted)

    def _is_served(self) -> bool:
        return not self._traffic.in_flight

    def _is_flushed(self) -> bool:
        return not any(client.unsent_bytes for client in self._reception.clients)

    async def _until(self, is_done: Callable[[], bool], *, margin_s: float) -> None:
        """Wait for it, until so long before the deadline, which may move nearer in the meantime."""
        while not is_done():
            left_s = self._deadline - margin_s - time.monotonic()
            if left_s <= 0:
                return
            self._drain_news.clear()
            # Looked for, not announced: requests and bytes that leave tell nobody, which keeps their path short.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._drain_news.wait(), min(left_s, _DRAIN_POLL_S))


def _certificate(start: messages.StartFront) -> Certificate | None:
    if start.tls_cert_file is None or start.tls_key_file is None:
        return None
    from ichat.front.certificate import Certificate  # ssl is big, and most do without
    from ichat.front.tls_context import TlsFilesError

    try:
        return Certificate(start.tls_cert_file, start.tls_key_file)
    except TlsFilesError as error:  # they could be used when ichat was started: perhaps they are being replaced
        raise TemporaryError(f"front: {error}. Put back a chain and its key.", code="E-FRONT-TLS") from error


def _affordable(connections: int, processes: int) -> int:
    """As many of them as have descriptors for the clients and their workers' connections, so that none run out."""
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    affordable = max(64, (descriptors - _RESERVED_DESCRIPTORS) // 2)
    if affordable < connections:
        _log.warning(
            "front: takes %d connections at most, for %d (server.limits.connections) the limit of open files"
            " must be %d, and is %d",
            affordable * processes,
            connections * processes,
            2 * connections + _RESERVED_DESCRIPTORS,
            descriptors,
        )
    return min(connections, affordable)
