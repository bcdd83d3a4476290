"""The admin port: its socket, who may speak to it, and the bytes of its requests and answers."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import importlib
import json
import logging
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ichat.config.schema import Timeouts
from ichat.launcher.admin_paths import AdminPaths, Answer, failure
from ichat.launcher.aside import Aside
from ichat.launcher.controls import Controls

if TYPE_CHECKING:
    from aiohttp import web

log = logging.getLogger(__name__)

BODY_LIMIT_BYTES = 64 * 1024
#: Who is in the house uses few; the launcher needs its descriptors for its workers.
_MOST_CONNECTIONS = 64
_GOODBYE_S = 0.2
_UNAUTHORIZED = failure(
    401,
    "invalid_token",
    "The admin port needs its token: Authorization: Bearer <token>.",
    **{"WWW-Authenticate": "Bearer"},
)
_BROWSER = failure(403, "browser_refused", "The admin port does not talk to web pages.")


class AdminPort:
    """Answers on sockets that listen already. In this order: ``open`` → ``close``; closing is harmless when repeated.

    Nothing about ichat is told, and no body is read, before the token was shown. Every connection carries one request.
    """

    def __init__(self, sockets: Sequence[socket.socket], token: str, controls: Controls, timeouts: Timeouts) -> None:
        self._sockets, self._timeouts = sockets, timeouts
        self._token = _digest(token)
        self._paths = AdminPaths(controls, timeouts.control_s)
        self._server: web.Server | None = None
        self._listeners: list[asyncio.Server] = []

    async def open(self) -> None:
        # It takes a quarter of a second, in which the loop would answer no probe.
        await Aside("importing aiohttp").run(lambda: importlib.import_module("aiohttp.web"))
        from aiohttp import web

        self._server = web.Server(
            self._answer,
            keepalive_timeout=self._timeouts.receive_headers_s,  # it begins with the connection
            auto_decompress=False,
            lingering_time=0,
            access_log=None,
            logger=_silence(),
        )
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            self._listeners.append(await loop.create_server(self._connect, sock=sock.dup()))

    async def close(self) -> None:
        """Cut off whoever still waits; what they asked for is cancelled."""
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener.close()
        self._paths.close()
        server, self._server = self._server, None
        if server is not None:
            await server.shutdown(_GOODBYE_S)

    def _connect(self) -> asyncio.Protocol:
        if self._server is None or len(self._server.connections) >= _MOST_CONNECTIONS:
            return _Closed()
        return self._server()

    # ---- one request --------------------------------------------------------------------------------------

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        from aiohttp import web

        answer = await self._decide(request)
        response = web.Response(
            status=answer.status,
            body=json.dumps(answer.body).encode(),
            headers=answer.headers | {"Cache-Control": "no-store", "Content-Type": "application/json"},
        )
        response.force_close()
        return response

    async def _decide(self, request: web.BaseRequest) -> Answer:
        headers = request.headers
        if "Origin" in headers or "Sec-Fetch-Mode" in headers:
            return _BROWSER
        if not self._may_ask(headers.getall("Authorization", [])):
            return _UNAUTHORIZED
        body = await self._read(request)
        if isinstance(body, Answer):
            return body
        path = request.raw_path.partition("?")[0][:120]
        log.log(
            logging.DEBUG if request.method == "GET" else logging.INFO,
            "admin: %s %s from=%s",
            request.method,
            path,
            request.remote,
        )
        try:
            return await self._paths.answer(request.method, request.raw_path, body)
        except asyncio.CancelledError:
            if self._server is None:
                return failure(503, "leaving", "ichat is leaving.")
            raise
        except Exception:
            log.exception("admin: %s %s failed", request.method, path)
            return failure(500, "internal", "A bug of ichat; its log has the traceback.")

    def _may_ask(self, shown: Sequence[str]) -> bool:
        """In the same time whatever is shown."""
        scheme, _, token = (shown[0] if len(shown) == 1 else "").partition(" ")
        is_right = hmac.compare_digest(_digest(token), self._token)
        return is_right and scheme.lower() == "bearer"

    async def _read(self, request: web.BaseRequest) -> bytes | Answer:
        if "Content-Encoding" in request.headers:
            return failure(415, "unsupported_encoding", "Send the body as it is, without a Content-Encoding.")
        too_long = failure(413, "body_too_large", f"A body may have {BODY_LIMIT_BYTES} bytes.")
        if (request.content_length or 0) > BODY_LIMIT_BYTES:
            return too_long
        body = b""
        try:
            async with asyncio.timeout(self._timeouts.receive_body_s):
                async for piece in request.content.iter_any():
                    body += piece
                    if len(body) > BODY_LIMIT_BYTES:
                        return too_long
        except TimeoutError:
            return failure(408, "request_timeout", "The body did not come in time.")
        if body and request.content_type != "application/json":
            return failure(415, "unsupported_type", "Send JSON, with Content-Type: application/json.")
        return body


class _Closed(asyncio.Protocol):
    """One connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        with contextlib.suppress(AttributeError):
            transport.abort()  # type: ignore[attr-defined]


def _silence() -> logging.Logger:
    """For aiohttp, which logs whatever it cannot parse: anybody could fill the log, and a token could get there."""
    logger = logging.Logger("admin-http")
    logger.disabled = True
    return logger


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
