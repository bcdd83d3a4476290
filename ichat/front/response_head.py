"""What a worker says before the body of its answer."""

from __future__ import annotations

from collections.abc import Collection

from ichat.front.replies import status_line

#: Headers that the client's hop gets in its own way, or not at all.
OWN_HEADERS = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"trailer", b"upgrade", b"transfer-encoding", b"content-length")
)
_BODILESS = frozenset((204, 304))


class ResponseHead:
    """``headers`` are those that are passed on, each as name, ``b": "``, value, ``b"\\r\\n"``."""

    __slots__ = ("closes", "content_length", "content_length_line", "content_type", "headers", "is_chunked", "status")

    def __init__(self) -> None:
        self.status = 0
        self.headers: list[bytes] = []
        self.content_length = -1
        self.content_length_line = b""
        self.content_type = b""
        self.is_chunked = False
        self.closes = False  # the worker will end the connection

    @property
    def is_event_stream(self) -> bool:
        return self.content_type.startswith(b"text/event-stream")

    @property
    def has_length(self) -> bool:
        """The end of the body is known without the end of the connection or chunks."""
        return self.content_length >= 0 or self.status in _BODILESS

    def take(self, lowered: bytes, name: bytes, value: bytes) -> None:
        """A header that is not simply passed on."""
        if lowered == b"content-length":
            self.content_length = int(value)
            self.content_length_line = b"%b: %b\r\n" % (name, value)
        elif lowered == b"transfer-encoding":
            self.is_chunked = True
        else:
            self.closes |= value.lower() == b"close"

    def lines(self, names: Collection[bytes]) -> tuple[bytes, ...]:
        """The headers of these names, as whole lines."""
        headers = self.headers
        starts = (at for at in range(0, len(headers), 4) if headers[at].lower() in names)
        return tuple(b"".join(headers[at : at + 4]) for at in starts)

    def encode(self, framing: bytes, connection: bytes, body: bytes = b"") -> bytes:
        return b"".join((status_line(self.status), *self.headers, framing, connection, b"\r\n", body))
