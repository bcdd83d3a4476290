"""What a worker says before the body of its answer."""

from __future__ import annotations

from collections.abc import Collection

from ichat.front.replies import BODILESS, status_line

#: Headers that the client's hop gets in its own way, or not at all.
OWN_HEADERS = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"trailer", b"upgrade", b"transfer-encoding", b"content-length")
)

_OF_STREAMS = {b"x-accel-buffering": b"x-accel-buffering: no\r\n", b"cache-control": b"cache-control: no-cache\r\n"}


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
        return self.content_length >= 0 or self.status in BODILESS

    @property
    def content_length_line(self) -> bytes:
        """As it came, or nothing."""
        return b"" if self.content_length < 0 else b"%b: %d\r\n" % (self.content_length_name, self.content_length)

    @property
    def is_repeatable(self) -> bool:
        """Another answer with this head, and another length, means the same."""
        return not (self.closes or self.is_chunked) and self.content_length >= 0 and self.status not in BODILESS

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

    def encode(self, framing: bytes, own_lines: bytes) -> bytes:
        return b"".join((self._wire or self._to_wire(), framing, own_lines, b"\r\n"))

    def encode_whole(self, body: bytes, own_lines: bytes) -> bytes:
        """With a body that is complete, whatever its length and framing were before."""
        framing = b"%b: %d\r\n" % (self.content_length_name, len(body))
        if self.status in BODILESS:
            framing = self.content_length_line
        return b"".join((self._wire or self._to_wire(), framing, own_lines, b"\r\n", body))

    def _to_wire(self) -> bytes:
        more = self._for_proxies() if self.is_event_stream else ()
        self._wire = b"".join((status_line(self.status), *self.headers, *more))
        return self._wire

    def _for_proxies(self) -> list[bytes]:
        """A stream is neither collected (nginx does, unless told otherwise) nor kept by whatever is on its way."""
        said = {name.lower() for name in self.headers[::4]}
        return [line for name, line in _OF_STREAMS.items() if name not in said]
