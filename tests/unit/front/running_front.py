"""A real front in this process, with real sockets on both sides and a test for a launcher."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from ichat.config.schema import Limits, Timeouts
from ichat.front.server import Front
from ichat.ipc import channel, messages
from ichat.ipc.channel import Channel
from tests.unit.front.raw_client import Client, Response, request
from tests.unit.front.scripted_worker import ScriptedWorker


@dataclass
class FrontUnderTest:
    port: int
    launcher: Channel
    front: Front
    heard: list[messages.Message] = field(default_factory=list)
    tls: ssl.SSLContext | None = None  # of the clients

    def routes(
        self,
        *workers: ScriptedWorker,
        state: messages.State = "ready",
        words: str = "",
        incarnations: tuple[str, ...] = (),
        since: float = 0.0,
        hold_s: float = 0.0,
        limits: dict[str, int | None] | None = None,
        others: tuple[messages.Instance, ...] = (),
        served_names: tuple[str, ...] = ("demo",),
    ) -> None:
        names = incarnations or tuple("a" for _ in workers)
        instances = [
            messages.Instance(f"demo/{number}", incarnation, worker.path)
            for number, (worker, incarnation) in enumerate(zip(workers, names, strict=True))
        ]
        since = since or time.time()
        model = messages.RouteModel(
            "demo", list(served_names), "fake", state, words, since, instances, hold_s, None, limits or {}
        )
        self.launcher.send(messages.Routes([model], was_ready=state == "ready", others=list(others)))

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
        return await Client.connect(self.port, self.tls)

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
    *,
    api_keys: list[str] | None = None,
    cors_origins: list[str] | None = None,
    limits: dict[str, Any] | None = None,
    tls: tuple[str, str] | None = None,
    number: int = 0,
    processes: int = 1,
    **timeouts: float,
) -> messages.StartFront:
    return messages.StartFront(
        limits=Limits(**(limits or {})).model_dump(mode="json"),
        timeouts=Timeouts(**({"sweep_every_s": 0.02} | timeouts)).model_dump(mode="json"),
        api_keys={f"key{number}": key for number, key in enumerate(api_keys or [])},
        cors_origins=cors_origins or [],
        tls_cert_file=tls[0] if tls else None,
        tls_key_file=tls[1] if tls else None,
        number=number,
        processes=processes,
    )


@contextlib.asynccontextmanager
async def running_front(
    *workers: ScriptedWorker,
    **start: Any,
) -> AsyncIterator[FrontUnderTest]:
    """A front in this process, with real sockets on both sides."""
    ours, theirs = channel.pair()
    launcher = await Channel.open(ours)
    front = Front(start_message(**start), await Channel.open(theirs))
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
