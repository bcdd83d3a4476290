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

    __slots__ = (
        "_wire",
        "closes",
        "content_length",
        "content_length_name",
        "content_type",
        "headers",
        "is_chunked",
        "status",
    )

    def __init__(self) -> None:
        self.status = 0
        self.headers: list[bytes] = []
        self.content_length = -1
        self.content_length_name = b"content-length"
        self.content_type = b""
        self.is_chunked = False
        self.closes = False  # the worker will end the connection
        self._wire = b""  # status line and headers as a client gets them

    @property
    def is_event_stream(self) -> bool:
        return self.content_type.startswith(b"text/event-stream")

    @property
    def has_length(self) -> bool:
        """The end of the body is known without the end of the connection or chunks."""
        return self.content_length >= 0 or self.status in _BODILESS

    @property
    def content_length_line(self) -> bytes:
        """As it came, or nothing."""
        return b"" if self.content_length < 0 else b"%b: %d\r\n" % (self.content_length_name, self.content_length)

    @property
    def is_repeatable(self) -> bool:
        """Another answer with this head, and another length, means the same."""
        return not (self.closes or self.is_chunked) and self.content_length >= 0 and self.status not in _BODILESS

    def take(self, lowered: bytes, name: bytes, value: bytes) -> None:
        """A header that is not simply passed on."""
        if lowered == b"content-length":
            self.content_length = int(value)
            self.content_length_name = name
        elif lowered == b"transfer-encoding":
            self.is_chunked = True
        else:
            self.closes |= value.lower() == b"close"

    def lines(self, names: Collection[bytes]) -> tuple[bytes, ...]:
        """The headers of these names, as whole lines."""
        headers = self.headers
        starts = (at for at in range(0, len(headers), 4) if headers[at].lower() in names)
        return tuple(b"".join(headers[at : at + 4]) for at in starts)

    def encode(self, framing: bytes, connection: bytes) -> bytes:
        return b"".join((self._wire or self._to_wire(), framing, connection, b"\r\n"))

    def encode_whole(self, body: bytes, connection: bytes) -> bytes:
        """With a body that is complete, whatever its length and framing were before."""
        framing = b"%b: %d\r\n" % (self.content_length_name, len(body))
        if self.status in _BODILESS:
            framing = self.content_length_line
        return b"".join((self._wire or self._to_wire(), framing, connection, b"\r\n", body))

    def _to_wire(self) -> bytes:
        self._wire = b"".join((status_line(self.status), *self.headers))
        return self._wire
