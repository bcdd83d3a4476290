"""One connection of a client that speaks TLS."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, cast

from ichat.front.client_connection import WRITE_BUFFER_BYTES, ClientConnection

if TYPE_CHECKING:
    from ichat.front.certificate import Certificate
    from ichat.front.reception import Reception


class SecureConnection(ClientConnection):
    """Counts from its first packet on, so that those who never finish their handshake keep to the limits too."""

    __slots__ = ("_certificate", "_is_lost", "_raw", "_shaking")

    def __init__(self, reception: Reception, certificate: Certificate) -> None:
        super().__init__(reception)
        self._certificate = certificate
        self._raw: asyncio.Transport | None = None
        self._shaking: asyncio.Task[None] | None = None
        self._is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._raw = self._transport = cast(asyncio.Transport, transport)
        self._raw.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        self.deadline = time.monotonic() + self._timeouts.receive_headers_s
        if self._reception.opened(self):
            self._shaking = asyncio.get_running_loop().create_task(self._shake_hands(), name="TLS handshake")
        else:
            self._abort()  # in plain text nothing can be said

    def connection_lost(self, exc: Exception | None) -> None:
        # Of a handshake that failed the loop tells in some cases, and in others it does not.
        if not self._is_lost:
            self._is_lost = True
            super().connection_lost(exc)
            self._raw = None

    @property
    def unsent_bytes(self) -> int:
        return super().unsent_bytes + (0 if self._raw is None else self._raw.get_write_buffer_size())

    async def _shake_hands(self) -> None:
        limit_s = self._timeouts.receive_headers_s
        try:
            transport = await asyncio.get_running_loop().start_tls(
                cast(asyncio.Transport, self._raw),
                self,
                self._certificate.context,
                server_side=True,
                ssl_handshake_timeout=limit_s,
                ssl_shutdown_timeout=limit_s,
            )
        except OSError as error:  # no TLS, an old one, no common cipher, or gone
            self._fail(error)
            return
        finally:
            self._shaking = None
        if transport is None or transport.is_closing() or self._is_lost:
            self._fail(None)
            return
        self._transport = transport
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        self.deadline = time.monotonic() + self._timeouts.idle_s

    def _fail(self, error: Exception | None) -> None:
        self._reception.traffic.refuse("tls_handshake")
        if self._raw is not None:
            self._raw.abort()
        self.connection_lost(error)
