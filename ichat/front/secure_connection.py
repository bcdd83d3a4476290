"""One connection of a client that speaks TLS."""

from __future__ import annotations

import asyncio
import time
import types
from collections.abc import Coroutine, Generator
from typing import TYPE_CHECKING, Any, cast

from ichat.front.client_connection import WRITE_BUFFER_BYTES, ClientConnection
from ichat.front.errors import TOO_MANY_CONNECTIONS

if TYPE_CHECKING:
    from ichat.front.certificate import Certificate
    from ichat.front.reception import Reception

_Opening = Coroutine[Any, None, asyncio.Transport | None]


class SecureConnection(ClientConnection):
    """Counts from its first packet on, so that those who never finish their handshake keep to the limits too."""

    __slots__ = ("_certificate", "_is_lost", "_is_shaking", "_raw", "_shaking")

    def __init__(self, reception: Reception, certificate: Certificate) -> None:
        super().__init__(reception)
        self._certificate = certificate
        self._raw: asyncio.Transport | None = None
        self._shaking: asyncio.Task[None] | None = None
        self._is_shaking = self._is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._raw = self._transport = cast(asyncio.Transport, transport)
        self._raw.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        self.deadline = time.monotonic() + self._timeouts.receive_headers_s
        if not self._reception.opened(self):
            self._reception.traffic.refuse(TOO_MANY_CONNECTIONS.code)
            self._abort()  # in plain text nothing can be said
            return
        self._is_shaking = True
        loop, limit_s = asyncio.get_running_loop(), self._timeouts.receive_headers_s
        opening: _Opening = loop.start_tls(
            self._raw,
            self,
            self._certificate.context,
            server_side=True,
            ssl_handshake_timeout=limit_s,
            ssl_shutdown_timeout=limit_s,
        )
        # A task makes its first step in the next turn of the loop, when bytes may have come that would be taken for
        # plain text. From this step on they belong to the handshake.
        waits_for = opening.send(None)
        self._shaking = loop.create_task(self._shake_hands(opening, waits_for), name="TLS handshake")

    def connection_lost(self, exc: Exception | None) -> None:
        # Of a handshake that failed the loop tells in some cases, and in others it does not.
        if not self._is_lost:
            self._is_lost = True
            if self._is_shaking:
                self._reception.traffic.refuse("tls_handshake")
            super().connection_lost(exc)
            self._raw = None

    @property
    def unsent_bytes(self) -> int:
        return super().unsent_bytes + (0 if self._raw is None else self._raw.get_write_buffer_size())

    async def _shake_hands(self, opening: _Opening, waits_for: Any) -> None:
        try:
            transport = await _rest_of(opening, waits_for)
        except OSError as error:  # no TLS, an old one, no common cipher, or gone
            self._fail(error)
            return
        finally:
            self._shaking = None
        if transport is None or transport.is_closing() or self._is_lost:
            self._fail(None)
            return
        self._is_shaking = False
        self._transport = transport
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        self.deadline = time.monotonic() + self._timeouts.idle_s

    def _fail(self, error: Exception | None) -> None:
        if self._raw is not None:
            self._raw.abort()
        self.connection_lost(error)


@types.coroutine
def _rest_of(opening: _Opening, waits_for: Any) -> Generator[Any, None, asyncio.Transport | None]:
    """All but the first step of it, which ended in waiting for this."""
    yield waits_for
    transport: asyncio.Transport | None = yield from opening
    return transport
