"""A worker in the process of the measurement that does what it is told and tells what it saw; and clients to ask it.

Both are on one clock and one loop, so that what happened between them can be timed; only the front is elsewhere.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httptools

from benchmarks.front.scripted_worker import ANSWERS, CHUNK, STREAM_HEAD, response


@dataclass(frozen=True)
class Request:
    """As the worker got it."""

    target: bytes
    body: bytes
    at: float


class Connection(asyncio.Protocol):
    """One at the worker. ``lost_at`` is 0 as long as it stands."""

    def __init__(self, witness: Witness) -> None:
        self._witness = witness
        self.lost_at = 0.0
        self._parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self._witness.connections.add(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._target, self._body = b"", bytearray()

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self._witness.take(self, Request(self._target, bytes(self._body), time.monotonic()))

    def write(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.lost_at = time.monotonic()
        self._witness.connections.discard(self)


#: What a witness does with a request.
Behaviour = Callable[[Connection, Request], None]


def answers(connection: Connection, request: Request) -> None:
    del request
    connection.write(response(ANSWERS[b"plain"]))


def answers_after(delay_s: float) -> Behaviour:
    def behave(connection: Connection, request: Request) -> None:
        asyncio.get_running_loop().call_later(delay_s, answers, connection, request)

    return behave


def answers_status(status: int) -> Behaviour:
    def behave(connection: Connection, request: Request) -> None:
        del request
        connection.write(response(b'{"error": {"message": "broken"}}', status))

    return behave


def resets(connection: Connection, request: Request) -> None:
    del request
    connection.transport.abort()


def is_silent(connection: Connection, request: Request) -> None:
    """As an engine that computes the first token."""
    del connection, request


def begins_a_stream(connection: Connection, request: Request) -> None:
    """One event, and no further one for now."""
    del request
    connection.write(STREAM_HEAD + CHUNK)


class Witness:
    """Listens between ``start`` and ``kill``, any number of times, each time on a unix socket of its own: ``path``."""

    def __init__(self, prefix: str, behaviour: Behaviour = answers) -> None:
        self._prefix, self.behaviour = prefix, behaviour
        self._starts = 0
        self.path = ""
        self.connections: set[Connection] = set()
        self.seen: deque[tuple[Connection, Request]] = deque()
        self._news = asyncio.Event()
        self._server: Any = None

    async def start(self) -> None:
        self._starts += 1
        self.path = f"{self._prefix}-{self._starts}.sock"
        self._server = await asyncio.get_running_loop().create_unix_server(
            lambda: Connection(self), self.path, backlog=1024
        )

    def kill(self) -> None:
        """As a process that is killed: no connection survives, and nobody listens. Harmless when repeated."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self.connections):
            connection.transport.abort()
        Path(self.path).unlink(missing_ok=True)

    def take(self, connection: Connection, request: Request) -> None:
        self.seen.append((connection, request))
        self._news.set()
        self.behaviour(connection, request)

    async def next_seen(self) -> tuple[Connection, Request]:
        """The oldest request that nobody has been given by this."""
        while not self.seen:
            self._news.clear()
            await self._news.wait()
        return self.seen.popleft()


@dataclass(frozen=True)
class Answer:
    """``status`` 0: the connection ended before the answer was whole."""

    status: int
    body: bytes


class Asker(asyncio.Protocol):
    """A client: asks, and awaits the answer. Its connection is kept, and opened anew when it was lost."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._transport: Any = None
        self._answer: asyncio.Future[Answer] | None = None
        self.first_byte = asyncio.Event()

    async def ask(self, *pieces: bytes) -> Answer:
        """The pieces of a request are sent one by one."""
        await self.send(*pieces)
        assert self._answer is not None
        return await self._answer

    async def send(self, *pieces: bytes) -> None:
        """Without waiting for the answer."""
        loop = asyncio.get_running_loop()
        if self._transport is None or self._transport.is_closing():
            self._transport, _ = await loop.create_connection(lambda: self, "127.0.0.1", self._port)
        self._answer = loop.create_future()
        self._body = bytearray()
        self.first_byte.clear()
        self._parser = httptools.HttpResponseParser(self)
        for number, piece in enumerate(pieces):
            if number:
                await asyncio.sleep(0.001)
            self._transport.write(piece)

    def data_received(self, data: bytes) -> None:
        self.first_byte.set()
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self._settle(Answer(self._parser.get_status_code(), bytes(self._body)))

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._transport = None
        self._settle(Answer(0, b""))

    def _settle(self, answer: Answer) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)

    def leave(self) -> None:
        if self._transport is not None:
            self._transport.abort()


async def ask_until(port: int, clients: int, request: bytes, is_over: Callable[[], bool]) -> list[Answer]:
    """So many clients in a closed loop, until it is over; all answers."""
    answers: list[Answer] = []

    async def one() -> None:
        asker = Asker(port)
        while not is_over():
            answers.append(await asker.ask(request))
        asker.leave()

    await asyncio.gather(*(one() for _ in range(clients)))
    return answers


async def under_load(port: int, clients: int, request: bytes, meanwhile: Awaitable[None]) -> list[Answer]:
    """All answers of a load that lasts as long as what happens meanwhile, and ends when that failed, too."""
    happening = asyncio.ensure_future(meanwhile)
    answers = await ask_until(port, clients, request, happening.done)
    await happening
    return answers
