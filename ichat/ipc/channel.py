"""One end of the socket pair between the launcher and a child: messages in, messages out, and the news of its end."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import socket
from collections.abc import AsyncIterator
from typing import Any, get_args

from ichat.ipc import messages
from ichat.ipc.messages import Message

# A routing table of a thousand instances is far below; a peer that sends more is broken.
LINE_LIMIT_BYTES = 4 * 1024 * 1024

_TYPES: dict[str, type[Any]] = {cls.__name__: cls for cls in get_args(Message)}


def encode(message: Message) -> bytes:
    """The line that carries the message."""
    return json.dumps({"type": type(message).__name__, **dataclasses.asdict(message)}).encode() + b"\n"


def decode(line: bytes) -> Message:
    """The message of a line. KeyError or TypeError: the other end is not of our version."""
    fields = json.loads(line)
    kind = _TYPES[fields.pop("type")]
    if kind is messages.Routes:
        fields["models"] = [
            messages.RouteModel(**model | {"instances": [messages.Instance(**one) for one in model["instances"]]})
            for model in fields["models"]
        ]
        fields["others"] = [messages.Instance(**one) for one in fields["others"]]
    message: Message = kind(**fields)
    return message


class Channel:
    """Sends without waiting, receives in order. The end of the other process is the end of the iteration.

    Messages are small and few, so a send is buffered and never blocks its caller; after the other end has gone
    a send does nothing, because whoever cares about that is already iterating.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, sock: socket.socket) -> Channel:
        """Take the socket over; `close()` closes it."""
        reader, writer = await asyncio.open_unix_connection(sock=sock, limit=LINE_LIMIT_BYTES)
        return cls(reader, writer)

    def send(self, message: Message) -> None:
        if not self._writer.is_closing():
            self._writer.write(encode(message))

    async def receive(self) -> Message | None:
        """The next message; None when the other end has gone."""
        try:
            line = await self._reader.readline()
        except ConnectionError:
            return None
        return decode(line) if line.endswith(b"\n") else None

    async def __aiter__(self) -> AsyncIterator[Message]:
        while (message := await self.receive()) is not None:
            yield message

    async def flush(self, limit_s: float = 1.0) -> None:
        """Wait until what was sent has left this process, so long at most. Harmless when the other end has gone."""
        if self._writer.is_closing():
            return
        # drain() returns below the high-water mark, whatever is still there.
        self._writer.transport.set_write_buffer_limits(0)
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._writer.drain()

    def close(self) -> None:
        self._writer.close()


def pair() -> tuple[socket.socket, socket.socket]:
    """(ours, the child's). Neither is inherited unless passed on by name."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
