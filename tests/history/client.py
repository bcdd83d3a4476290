"""An HTTP client that keeps its connections as HTTP libraries do, and writes down all that happens to a request.

On asyncio's protocols, because it must not be what limits a test on a machine with two cores.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, cast

import httptools

from tests.history.answers import read_answer
from tests.history.records import Outcome, Request


class Exchange:
    """One request with its bytes, and where it stands."""

    __slots__ = ("body", "connection", "head", "is_over", "leave_after_s", "request", "timers")

    def __init__(self, request: Request, head: bytes, leave_after_s: float | None = None) -> None:
        self.request, self.head, self.leave_after_s = request, head, leave_after_s
        self.body = b""
        self.connection: Connection | None = None
        self.is_over = False
        self.timers: list[asyncio.TimerHandle] = []


class Client:
    """``finished`` gets every request at its end, exactly once; ``strayed`` what came without being asked for."""

    def __init__(
        self,
        port: int,
        timeout_s: float,
        finished: Callable[[Request], None],
        strayed: Callable[[int, bytes], None],
    ) -> None:
        self._port, self._timeout_s = port, timeout_s
        self._finished, self.strayed = finished, strayed
        self._idle: dict[Connection, None] = {}
        self._connecting: set[asyncio.Task[None]] = set()
        self._connections = 0
        self.open = 0  # requests without their end

    def start(self, exchange: Exchange) -> None:
        """Send it on the connection that was used last, or on a new one."""
        self.open += 1
        loop = asyncio.get_running_loop()
        exchange.timers.append(loop.call_later(self._timeout_s, self._give_up, exchange, "timeout"))
        if exchange.leave_after_s is not None:
            exchange.timers.append(loop.call_later(exchange.leave_after_s, self._give_up, exchange, "left"))
        if self._idle:
            connection, _ = self._idle.popitem()
            connection.send(exchange)
        else:
            self._connect(exchange)

    def close(self) -> None:
        for connection in list(self._idle):
            connection.abort()

    # ---- from the connections -----------------------------------------------------------------------------

    def completed(self, exchange: Exchange, connection: Connection, *, keep_alive: bool) -> None:
        if keep_alive:
            self._idle[connection] = None
        else:
            connection.close()
        self._end(exchange, "ok" if 200 <= exchange.request.status < 300 else "refused")

    def lost(self, exchange: Exchange | None, connection: Connection) -> None:
        """The connection has ended, with the request that it carried."""
        self._idle.pop(connection, None)
        if exchange is None or exchange.is_over:
            return
        request = exchange.request
        if request.t_first_byte is not None:
            self._end(exchange, "cut")
        elif request.reused and not request.resent:
            # The server closed it between two requests, and ours crossed that: every HTTP client sends it again.
            request.resent = 1
            self._connect(exchange)
        else:
            self._end(exchange, "reset")

    # ---- the way of a request -----------------------------------------------------------------------------

    def _connect(self, exchange: Exchange) -> None:
        task = asyncio.create_task(self._connected(exchange), name="connect")
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connected(self, exchange: Exchange) -> None:
        self._connections += 1
        number = self._connections
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: Connection(self, number), "127.0.0.1", self._port
            )
        except OSError:
            self._end(exchange, "unreachable")
            return
        if exchange.is_over:
            connection.close()
        else:
            connection.send(exchange)

    def _give_up(self, exchange: Exchange, outcome: Outcome) -> None:
        connection = exchange.connection
        self._end(exchange, outcome)
        if connection is not None:
            connection.abort()

    def _end(self, exchange: Exchange, outcome: Outcome) -> None:
        if exchange.is_over:
            return
        exchange.is_over = True
        for timer in exchange.timers:
            timer.cancel()
        request = exchange.request
        request.outcome, request.t_end = outcome, time.monotonic()
        if request.status:
            read_answer(request, exchange.body)
        self.open -= 1
        self._finished(request)


class Connection(asyncio.Protocol):
    """One exchange after the other. The parser calls its `on_…` methods."""

    def __init__(self, client: Client, number: int) -> None:
        self._client, self._number = client, number
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._parser: Any = None
        self._carried = 0
        self._is_complete = self._keeps_open = False

    def send(self, exchange: Exchange) -> None:
        assert self._transport is not None
        assert self._exchange is None
        self._exchange, exchange.connection = exchange, self
        self._parser, self._is_complete = httptools.HttpResponseParser(self), False
        request = exchange.request
        request.connection, request.reused = self._number, self._carried > 0
        request.t_sent = request.t_sent or time.monotonic()
        self._carried += 1
        self._transport.write(exchange.head)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # ---- from the transport -------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            self._client.strayed(self._number, data)
            self.abort()
            return
        if exchange.request.t_first_byte is None:
            exchange.request.t_first_byte = time.monotonic()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            exchange.request.strange = f"not HTTP: {error!r} in {data[:80]!r}"
            self.abort()
            return
        if self._is_complete:
            self._exchange = exchange.connection = None
            self._client.completed(exchange, self, keep_alive=self._keeps_open)

    def connection_lost(self, exc: Exception | None) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.connection = None
        self._client.lost(exchange, self)

    # ---- from the parser ----------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._is_complete:
            self._client.strayed(self._number, b"a second answer to one request")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._exchange is not None and name.lower() == b"retry-after":
            self._exchange.request.retry_after = True

    def on_headers_complete(self) -> None:
        if self._exchange is not None and not self._is_complete:
            self._exchange.request.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        if self._exchange is not None and not self._is_complete:
            self._exchange.body += body

    def on_message_complete(self) -> None:
        self._is_complete, self._keeps_open = True, self._parser.should_keep_alive()
