"""The probe socket: health and status answered from memory, whoever asks, however often and however badly."""

from __future__ import annotations

import asyncio
import json
import os
from typing import cast

from ichat.launcher.board import Board

_LONGEST_REQUEST_BYTES = 4096
#: Who has not sent a request line by then is cut off.
_PATIENCE_S = 2.0
#: More at once are probes that hang; the newest is the one that somebody waits for.
_MOST_CONNECTIONS = 64


class Probes:
    """Serves ``GET /health`` and ``GET /status`` on a unix socket that only this user can open."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._open: dict[_Probe, None] = {}
        self._server: asyncio.AbstractServer | None = None

    async def open(self, path: str) -> None:
        loop = asyncio.get_running_loop()
        # 0600 from its first moment: the directory may be one that others can enter.
        before = os.umask(0o177)
        try:
            self._server = await loop.create_unix_server(lambda: _Probe(self), path, backlog=_MOST_CONNECTIONS)
        finally:
            os.umask(before)

    def close(self) -> None:
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

    def answer(self, request_line: bytes) -> bytes:
        method, _, rest = request_line.partition(b" ")
        path = rest.split(b" ", 1)[0].split(b"?", 1)[0]
        if method != b"GET":
            return _reply(405, b"only GET\n")
        if path == b"/health":
            is_ready, words = self._board.health()
            return _reply(200 if is_ready else 503, words.encode() + b"\n")
        if path == b"/status":
            return _reply(200, json.dumps(self._board.status()).encode() + b"\n", b"application/json")
        return _reply(404, b"only /health and /status\n")


class _Probe(asyncio.Protocol):
    """One connection: one request, one answer, closed."""

    def __init__(self, probes: Probes) -> None:
        self._probes = probes
        self._received = b""
        self._transport: asyncio.Transport | None = None
        self._limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._limit = asyncio.get_running_loop().call_later(_PATIENCE_S, self.cut_off)
        self._probes.admit(self)

    def data_received(self, data: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        self._received += data
        line, newline, _ = self._received.partition(b"\n")
        # The headers do not matter, but a client whose request is read only in part may be told of a reset.
        is_whole = b"\r\n\r\n" in self._received or b"\n\n" in self._received
        if is_whole or len(self._received) > _LONGEST_REQUEST_BYTES:
            self._transport.write(self._probes.answer(line.strip() if newline else b""))
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self._limit is not None:
            self._limit.cancel()
        self._probes.leave(self)

    def cut_off(self) -> None:
        if self._transport is not None:
            self._transport.abort()


_REASONS = {200: b"OK", 404: b"Not Found", 405: b"Method Not Allowed", 503: b"Service Unavailable"}


def _reply(code: int, body: bytes, kind: bytes = b"text/plain; charset=utf-8") -> bytes:
    head = b"HTTP/1.0 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
    return head % (code, _REASONS[code], kind, len(body)) + body
