"""A client that sends what a test wants and sees every byte that comes back."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from dataclasses import dataclass
from typing import Any

CHAT = "/v1/chat/completions"
_PATIENCE_S = 60.0
BODY = json.dumps({"model": "demo", "messages": [{"role": "user", "content": "hi"}]}).encode()


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
    async def connect(cls, port: int, tls: ssl.SSLContext | None = None) -> Client:
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=2**27, ssl=tls))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def response(self) -> Response:
        """The next response, or what there is of it. A front that does not answer fails the test instead of hanging it."""
        async with asyncio.timeout(_PATIENCE_S):
            return await self._read_response()

    async def _read_response(self) -> Response:
        head = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = head[:-4].decode("latin-1").split("\r\n")
        headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
        response = Response(int(first.split(" ")[1]), headers, b"", True, head)
        if response.status < 200 or response.status in (204, 304):
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
