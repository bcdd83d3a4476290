"""The floor: carries bytes between a client and a worker on uvloop, and looks at none of them."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop

_BACKLOG = 1024


class _Worker(asyncio.Protocol):
    def __init__(self, client: _Client) -> None:
        self._client = client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._client.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._client.transport.close()

    # Back-pressure, as any gateway must have it: who reads slowly is sent slowly.
    def pause_writing(self) -> None:
        self._client.transport.pause_reading()

    def resume_writing(self) -> None:
        self._client.transport.resume_reading()


class _Client(asyncio.Protocol):
    """Each client has a connection to the worker of its own; what it sends before that is open is kept."""

    def __init__(self, connect: Callable[[_Client], Awaitable[Any]]) -> None:
        self._connect = connect
        self._worker: _Worker | None = None
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self._task = asyncio.get_running_loop().create_task(self._open())

    async def _open(self) -> None:
        try:
            _, worker = await self._connect(self)
        except OSError:
            self.transport.close()
            return
        for data in self._early:
            worker.transport.write(data)
        self._worker = worker
        if self.transport.is_closing():
            worker.transport.close()

    def data_received(self, data: bytes) -> None:
        if self._worker is None:
            self._early.append(data)
        else:
            self._worker.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self._worker is not None:
            self._worker.transport.close()

    def pause_writing(self) -> None:
        if self._worker is not None:
            self._worker.transport.pause_reading()

    def resume_writing(self) -> None:
        if self._worker is not None:
            self._worker.transport.resume_reading()


async def _serve(port: int, worker_port: int, worker_socket: str) -> None:
    loop = asyncio.get_running_loop()

    def connect(client: _Client) -> Awaitable[Any]:
        if worker_socket:
            return loop.create_unix_connection(lambda: _Worker(client), worker_socket)
        return loop.create_connection(lambda: _Worker(client), "127.0.0.1", worker_port)

    server = await loop.create_server(lambda: _Client(connect), "127.0.0.1", port, backlog=_BACKLOG)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.front.splice", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--worker-port", type=int, default=0)
    where.add_argument("--worker-socket", default="")
    chosen = parser.parse_args()
    uvloop.run(_serve(chosen.port, chosen.worker_port, chosen.worker_socket))
