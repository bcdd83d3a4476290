"""A worker that answers as the request asks: small, large, at a pace or as fast as it is taken.

What it is to do stands in the request's text, since gateways rewrite all else: ``bench-pace-100!`` are a hundred
events. It listens at several places, so that one process plays several instances and shares a core with the load.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httptools
import uvloop

PACE_S = 0.01
MODEL = "demo"
_SCRIPT = re.compile(rb"bench-([a-z]+)(?:-(\d+))?!")
_SCRIPT_BYTES = 2048  # of a request: so far it is looked for
_BACKLOG = 1024
#: One write in so many waits until the socket takes more.
_FLOOD_STRIDE = 16


@dataclass(frozen=True)
class Places:
    """Where the instances listen: each on a unix socket and on a port."""

    sockets: list[str]
    ports: list[int]


def response(body: bytes, status: int = 200, content_type: str = "application/json") -> bytes:
    """As uvicorn writes it."""
    return _head(status, content_type, f"content-length: {len(body)}") + body


def _head(status: int, content_type: str, framing: str) -> bytes:
    return (
        f"HTTP/1.1 {status} X\r\nserver: uvicorn\r\ndate: Sat, 21 Nov 2026 10:00:00 GMT\r\n"
        f"content-type: {content_type}\r\n{framing}\r\n\r\n"
    ).encode()


def _completion(text: str) -> bytes:
    message = {"role": "assistant", "content": text}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    usage = {"prompt_tokens": 9, "completion_tokens": 16, "total_tokens": 25}
    answer = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": MODEL, "choices": choices}
    return json.dumps(answer | {"usage": usage}).encode()


ANSWERS = {b"plain": _completion("x" * 64), b"large": _completion("x" * 256 * 1024)}
_EVENT = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
_DELTA = {"choices": [{"index": 0, "delta": {"content": " token"}, "finish_reason": None}]}
EVENT = b"data: " + json.dumps(_EVENT | _DELTA).encode() + b"\n\n"
STREAM_HEAD = _head(200, "text/event-stream; charset=utf-8", "transfer-encoding: chunked")
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
DONE = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"

_RESPONSES = {script: response(body) for script, body in ANSWERS.items()}
#: For whoever asks what is served here before it sends anything.
_ABOUT = {
    "object": "list",
    "data": [{"id": MODEL, "object": "model", "created": 1, "owned_by": "bench"}],
    "model_path": MODEL,
    "served_model_name": MODEL,
    "is_generation": True,
}
_ABOUT_RESPONSE = response(json.dumps(_ABOUT).encode())


class ScriptedWorker(asyncio.Protocol):
    """One connection, one request at a time."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self._parser = httptools.HttpRequestParser(self)
        self._is_writable = asyncio.Event()
        self._is_writable.set()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._text = b""

    def on_body(self, body: bytes) -> None:
        if len(self._text) < _SCRIPT_BYTES:
            self._text += body[:_SCRIPT_BYTES]

    def on_message_complete(self) -> None:
        found = _SCRIPT.search(self._text)
        if found is None:
            self.transport.write(_ABOUT_RESPONSE)
        elif (answer := _RESPONSES.get(found[1])) is not None:
            self.transport.write(answer)
        else:
            self._start(self._pace if found[1] == b"pace" else self._flood, int(found[2]))

    def _start(self, stream: Callable[[int], Coroutine[Any, Any, None]], count: int) -> None:
        self.transport.write(STREAM_HEAD)
        self._task = asyncio.get_running_loop().create_task(stream(count))

    async def _pace(self, count: int) -> None:
        due = time.monotonic()
        for _ in range(count):
            if self.transport.is_closing():
                return
            self.transport.write(CHUNK)
            due += PACE_S
            await asyncio.sleep(max(0, due - time.monotonic()))
        self.transport.write(DONE)

    async def _flood(self, count: int) -> None:
        for index in range(count):
            if self.transport.is_closing():
                return
            self.transport.write(CHUNK)
            if index % _FLOOD_STRIDE == 0:
                await asyncio.sleep(0)
                await self._is_writable.wait()
        self.transport.write(DONE)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._is_writable.set()

    def pause_writing(self) -> None:
        self._is_writable.clear()

    def resume_writing(self) -> None:
        self._is_writable.set()


async def _serve(places: Places) -> None:
    loop = asyncio.get_running_loop()
    for path in places.sockets:
        Path(path).unlink(missing_ok=True)
    servers = [await loop.create_unix_server(ScriptedWorker, path, backlog=_BACKLOG) for path in places.sockets]
    servers += [await loop.create_server(ScriptedWorker, "127.0.0.1", port, backlog=_BACKLOG) for port in places.ports]
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.front.scripted_worker", description=__doc__)
    parser.add_argument("--sockets", nargs="*", default=[])
    parser.add_argument("--ports", nargs="*", type=int, default=[])
    chosen = parser.parse_args()
    uvloop.run(_serve(Places(chosen.sockets, chosen.ports)))
