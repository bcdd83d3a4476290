"""The probe socket: health and status answered from memory, whoever asks, however often and however badly."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import unquote

from ichat.launcher.board import Board

_LONGEST_REQUEST_BYTES = 4096
#: Who has not sent a request line by then is cut off.
_PATIENCE_S = 2.0
#: More at once are probes that hang; the newest is the one that somebody waits for.
_MOST_CONNECTIONS = 64


#: What takes its time, by method and path; the rest of the path is its argument.
Orders = Mapping[tuple[bytes, bytes], Callable[[str], Awaitable[tuple[int, dict[str, Any]]]]]


class Probes:
    """Serves ``GET /health``, ``GET /status`` and orders on a unix socket that only this user can open.

    An order is answered when it is carried out, and is carried out also when nobody waits for the answer any more.
    """

    def __init__(self, board: Board, show_status: Callable[[], dict[str, Any]]) -> None:
        self._board, self._show_status = board, show_status
        self._orders: Orders = {}
        self._at_work: set[asyncio.Task[bytes]] = set()
        self._open: dict[_Probe, None] = {}
        self._server: asyncio.AbstractServer | None = None
        self._is_at: tuple[int, int] | None = None

    async def open(self, path: str) -> None:
        """Also again, after somebody has deleted the socket; who is connected is answered all the same."""
        loop = asyncio.get_running_loop()
        if self._server is not None:
            self._server.close()
        # 0600 from its first moment: the directory may be one that others can enter.
        before = os.umask(0o177)
        try:
            self._server = await loop.create_unix_server(lambda: _Probe(self), path, backlog=_MOST_CONNECTIONS)
        finally:
            os.umask(before)
        self._is_at = _identity(path)

    def is_reached(self, path: str) -> bool:
        """Whether the socket is still there, and ours."""
        return self._is_at is not None and _identity(path) == self._is_at

    def obey(self, orders: Orders) -> None:
        """From now on these are carried out."""
        self._orders = orders

    def close(self) -> None:
        for task in self._at_work:
            task.cancel()
        if self._server is not None:
            self._server.close()
        for probe in list(self._open):
            probe.cut_off()

    def admit(self, probe: _Probe) -> None:
        self._open[probe] = None
        if len(self._open) > _MOST_CONNECTIONS:
            next(iter(self._open)).cut_off()

    def leave(self, probe: _Probe) -> None:
        self._open.pop(probe, None)

    def answer(self, request_line: bytes) -> bytes | asyncio.Task[bytes]:
        """The whole answer, or the order that it will come from."""
        method, _, rest = request_line.partition(b" ")
        path = rest.split(b" ", 1)[0].split(b"?", 1)[0]
        if method not in (b"GET", b"POST") or (method == b"POST" and path in (b"/health", b"/status")):
            return _reply(405, b"only GET, and POST for a command\n")
        if path == b"/health":
            is_ready, words = self._board.health()
            return _reply(200 if is_ready else 503, words.encode() + b"\n")
        if path == b"/status":
            return _reply_json(200, self._show_status())
        order = path[: path.find(b"/", 1)] if path.count(b"/") > 1 else path
        if (carry_out := self._orders.get((method, order))) is not None:
            argument = unquote(path[len(order) + 1 :].decode("latin-1"))
            return self._begin(carry_out(argument))
        return _reply(404, b"only /health, /status and the commands of ichat\n")

    def _begin(self, order: Awaitable[tuple[int, dict[str, Any]]]) -> asyncio.Task[bytes]:
        async def carry_out() -> bytes:
            return _reply_json(*await order)

        task = asyncio.create_task(carry_out(), name="order")
        self._at_work.add(task)
        task.add_done_callback(self._at_work.discard)
        return task


class _Probe(asyncio.Protocol):
    """One connection: one request, one answer, closed."""

    def __init__(self, probes: Probes) -> None:
        self._probes = probes
        self._received = b""
        self._transport: asyncio.Transport | None = None
        self._limit: asyncio.TimerHandle | None = None
        self._is_waiting = False  # for an order

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._limit = asyncio.get_running_loop().call_later(_PATIENCE_S, self.cut_off)
        self._probes.admit(self)

    def data_received(self, data: bytes) -> None:
        if self._transport is None or self._transport.is_closing() or self._is_waiting:
            return
        self._received += data
        line, newline, _ = self._received.partition(b"\n")
        # The headers do not matter, but a client whose request is read only in part may be told of a reset.
        is_whole = b"\r\n\r\n" in self._received or b"\n\n" in self._received
        if is_whole or len(self._received) > _LONGEST_REQUEST_BYTES:
            self._answer(self._probes.answer(line.strip() if newline else b""))

    def _answer(self, answer: bytes | asyncio.Task[bytes]) -> None:
        if self._transport is None:
            return
        if isinstance(answer, bytes):
            self._transport.write(answer)
            self._transport.close()
            return
        # It takes as long as it takes: neither the patience nor the number of probes counts for it.
        self._is_waiting = True
        self._stop_waiting()
        answer.add_done_callback(self._carried_out)

    def _carried_out(self, task: asyncio.Task[bytes]) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if not task.cancelled() and task.exception() is None:
            self._transport.write(task.result())
        self._transport.close()

    def _stop_waiting(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
        self._probes.leave(self)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._transport = None
        self._stop_waiting()

    def cut_off(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _reply_json(code: int, body: dict[str, Any]) -> bytes:
    return _reply(code, json.dumps(body).encode() + b"\n", b"application/json")


def _reply(code: int, body: bytes, kind: bytes = b"text/plain; charset=utf-8") -> bytes:
    head = b"HTTP/1.0 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
    return head % (code, HTTPStatus(code).phrase.encode(), kind, len(body)) + body
