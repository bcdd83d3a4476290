"""A worker that does what a test tells it, on a real unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Seen:
    """A request as the worker got it."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    connection: int

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)


class Turn:
    """One request at the worker, and the means to answer it."""

    def __init__(self, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.seen, self.reader, self.writer = seen, reader, writer
        self.keeps_open = True

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def json(self, status: int, value: Any, headers: str = "") -> None:
        body = json.dumps(value).encode()
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n{headers}\r\n"
        await self.send(head.encode() + body)

    async def start_events(self) -> None:
        await self.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
        )

    async def chunk(self, data: bytes) -> None:
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    def abort(self) -> None:
        """End as a killed process does that had read the request."""
        self.keeps_open = False
        self.writer.transport.abort()

    def read_no_more(self) -> None:
        """What comes on this connection from now on stays in the kernel, where the front has written it."""
        self.writer.transport.pause_reading()  # type: ignore[attr-defined]

    async def until_client_left(self, limit_s: float = 2.0) -> bool:
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(limit_s):
                return await self.reader.read(1) == b""
        return True


Script = Callable[[Turn], Awaitable[None]]


async def answer_json(turn: Turn) -> None:
    await turn.json(200, {"id": "1", "object": "chat.completion"})


class ScriptedWorker:
    """``script`` answers each request; what was asked is in ``seen``."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.script: Script = answer_json
        self.slams = False  # ends each new connection without reading from it
        self.seen: list[Seen] = []
        self.open_connections = 0
        self.connections = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.path, limit=2**27)

    async def stop(self) -> None:
        """As a process that is killed: no connection survives, and nobody listens."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.drop_connections()
        Path(self.path).unlink(missing_ok=True)
        await asyncio.sleep(0)

    def drop_connections(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open_connections += 1
        number = self.connections
        self._writers.add(writer)
        if self.slams:
            writer.transport.abort()
        try:
            while True:
                seen = await self._read(reader, number)
                self.seen.append(seen)
                turn = Turn(seen, reader, writer)
                await self.script(turn)
                if not turn.keeps_open:
                    break
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            return
        finally:
            self.open_connections -= 1
            self._writers.discard(writer)
            writer.close()

    @staticmethod
    async def _read(reader: asyncio.StreamReader, number: int) -> Seen:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head[:-4].split("\r\n")
        method, target, _ = first.split(" ")
        headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
        length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
        return Seen(method, target, headers, await reader.readexactly(length), number)


@contextlib.asynccontextmanager
async def running_worker() -> AsyncIterator[ScriptedWorker]:
    with tempfile.TemporaryDirectory() as directory:
        worker = ScriptedWorker(f"{directory}/http.sock")
        await worker.start()
        try:
            yield worker
        finally:
            await worker.stop()
