"""A real front on a real port, a worker that does what a test tells it, and a client that sees every byte."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ichat.config.schema import Limits, Timeouts
from ichat.front.server import Front
from ichat.ipc import channel, messages
from ichat.ipc.channel import Channel

CHAT = "/v1/chat/completions"
BODY = json.dumps({"model": "demo", "messages": [{"role": "user", "content": "hi"}]}).encode()


# ---- a worker -----------------------------------------------------------------------------------------------------


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
        """End as a killed process does."""
        self.keeps_open = False
        self.writer.transport.abort()

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


# ---- a client -----------------------------------------------------------------------------------------------------


@dataclass
class Response:
    status: int
    headers: list[tuple[str, str]]
    body: bytes
    is_whole: bool  # its framing says that nothing is missing
    head: bytes = b""

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json()["error"]["code"])


class Client:
    """A connection to the front, without any politeness of its own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, port: int) -> Client:
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=2**27))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def response(self) -> Response:
        """The next response, or what there is of it."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = head[:-4].decode("latin-1").split("\r\n")
        headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
        response = Response(int(first.split(" ")[1]), headers, b"", True, head)
        if response.status < 200:
            return response
        if response.header("transfer-encoding") == "chunked":
            await self._read_chunks(response)
        elif (length := response.header("content-length")) is not None:
            await self._read_exactly(response, int(length))
        else:
            await self._read_to_end(response)
        return response

    async def _read_exactly(self, response: Response, size: int) -> None:
        try:
            response.body += await self.reader.readexactly(size)
        except asyncio.IncompleteReadError as error:
            response.body += error.partial
            response.is_whole = False
        except ConnectionError:
            response.is_whole = False

    async def _read_chunks(self, response: Response) -> None:
        while response.is_whole:
            try:
                size = int(await self.reader.readuntil(b"\r\n"), 16)
            except (asyncio.IncompleteReadError, ConnectionError):
                response.is_whole = False
                return
            await self._read_exactly(response, size)
            if response.is_whole:
                await self.reader.readexactly(2)
            if size == 0:
                return

    async def _read_to_end(self, response: Response) -> None:
        try:
            response.body += await self.reader.read()
        except ConnectionError:
            response.is_whole = False

    async def is_closed(self, limit_s: float = 2.0) -> bool:
        """The front has ended the connection, one way or the other."""
        try:
            async with asyncio.timeout(limit_s):
                while await self.reader.read(65536):
                    pass
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        return True

    def reset(self) -> None:
        """Leave by RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.writer.transport.abort()

    def close(self) -> None:
        self.writer.close()


def request(method: str = "POST", target: str = CHAT, body: bytes | None = BODY, headers: str = "") -> bytes:
    length = "" if body is None else f"Content-Length: {len(body)}\r\n"
    return f"{method} {target} HTTP/1.1\r\nHost: front\r\n{length}{headers}\r\n".encode("latin-1") + (body or b"")


# ---- the front ----------------------------------------------------------------------------------------------------


@dataclass
class FrontUnderTest:
    port: int
    launcher: Channel
    front: Front
    heard: list[messages.Message] = field(default_factory=list)

    def routes(
        self,
        *workers: ScriptedWorker,
        state: messages.State = "ready",
        words: str = "",
        incarnations: tuple[str, ...] = (),
        since: float = 0.0,
    ) -> None:
        names = incarnations or tuple("a" for _ in workers)
        instances = [
            messages.Instance(f"demo/{number}", incarnation, worker.path)
            for number, (worker, incarnation) in enumerate(zip(workers, names, strict=True))
        ]
        model = messages.RouteModel("demo", ["demo"], "fake", state, words, since or time.time(), instances)
        self.launcher.send(messages.Routes([model], was_ready=state == "ready"))

    async def tell(self, message: messages.Message) -> None:
        self.launcher.send(message)
        await self.settle()

    async def settle(self) -> None:
        """Everything said to the front before has been heard."""
        number = time.monotonic_ns()
        self.launcher.send(messages.Ping(number))
        await self.hears(lambda message: message == messages.Pong(number))

    async def hears(self, is_it: Callable[[messages.Message], bool], limit_s: float = 3.0) -> messages.Message:
        async with asyncio.timeout(limit_s):
            while True:
                for message in self.heard:
                    if is_it(message):
                        return message
                await asyncio.sleep(0.002)

    async def connect(self) -> Client:
        return await Client.connect(self.port)

    async def ask(self, data: bytes) -> Response:
        client = await self.connect()
        try:
            await client.send(data)
            return await client.response()
        finally:
            client.close()

    async def get(self, target: str, headers: str = "") -> Response:
        return await self.ask(request("GET", target, None, headers))


def listening_socket() -> socket.socket:
    sock = socket.create_server(("127.0.0.1", 0), backlog=1024)
    sock.setblocking(False)
    return sock


def start_message(
    *, api_keys: list[str] | None = None, limits: dict[str, Any] | None = None, **timeouts: float
) -> messages.StartFront:
    return messages.StartFront(
        limits=Limits(**(limits or {})).model_dump(mode="json"),
        timeouts=Timeouts(**({"sweep_every_s": 0.02} | timeouts)).model_dump(mode="json"),
        api_keys=api_keys or [],
    )


@contextlib.asynccontextmanager
async def running_front(
    *workers: ScriptedWorker,
    api_keys: list[str] | None = None,
    limits: dict[str, Any] | None = None,
    **timeouts: float,
) -> AsyncIterator[FrontUnderTest]:
    """A front in this process, with real sockets on both sides."""
    ours, theirs = channel.pair()
    launcher = await Channel.open(ours)
    front = Front(start_message(api_keys=api_keys, limits=limits, **timeouts), await Channel.open(theirs))
    sock = listening_socket()
    under_test = FrontUnderTest(sock.getsockname()[1], launcher, front)
    running = asyncio.create_task(front.run([sock]), name="front")
    listening = asyncio.create_task(_listen(under_test), name="launcher")
    try:
        if workers:
            under_test.routes(*workers)
        await under_test.settle()
        yield under_test
    finally:
        launcher.close()
        await asyncio.wait_for(running, 3)
        await listening


async def _listen(under_test: FrontUnderTest) -> None:
    async for message in under_test.launcher:
        under_test.heard.append(message)
