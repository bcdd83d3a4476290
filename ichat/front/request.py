"""One request of a client, as it came, and the bytes that a worker is sent for it."""

from __future__ import annotations

from ichat.front.errors import Dialect, Failure
from ichat.front.routes import Route

#: Up to here head and body are joined, so that they leave in one packet; beyond it a copy costs more.
_JOIN_LIMIT_BYTES = 64 * 1024


class Request:
    """Filled by the RequestReader while it arrives; nothing changes it once it is complete."""

    __slots__ = (
        "body",
        "content_encoding",
        "content_length",
        "dropped_bytes",
        "dropped_count",
        "failure",
        "headers",
        "host_count",
        "is_chunked",
        "is_head_complete",
        "is_http10",
        "is_upgrade",
        "keep_alive",
        "method",
        "nominated",
        "path",
        "route",
        "target",
        "waits_for_continue",
    )

    def __init__(self) -> None:
        self.method = b""
        self.target = b""  # as on the wire
        self.path = b""  # the target up to its query
        self.headers: list[bytes] = []  # those that are passed on, each as name, b": ", value, b"\r\n"
        self.body: bytes | bytearray = b""
        self.host_count = 0
        self.dropped_count = self.dropped_bytes = 0  # headers that are not passed on
        self.content_length = -1  # -1: not announced
        self.is_chunked = self.is_http10 = self.is_upgrade = self.is_head_complete = False
        self.waits_for_continue = False  # Expect: 100-continue
        self.keep_alive = False
        self.content_encoding = b""
        self.nominated: set[bytes] | None = None  # headers that Connection declares to be for this hop only
        self.route: Route | None = None
        self.failure: Failure | None = None  # known from the head; told when the body has been read

    @property
    def header_count(self) -> int:
        return len(self.headers) // 4 + self.dropped_count

    @property
    def header_bytes(self) -> int:
        return sum(map(len, self.headers)) + self.dropped_bytes

    @property
    def has_body(self) -> bool:
        return self.is_chunked or self.content_length > 0

    @property
    def dialect(self) -> Dialect:
        return "openai" if self.route is None else self.route.dialect

    def values(self, name: bytes) -> list[bytes]:
        """Of all headers of this name, which is in lower case."""
        headers = self.headers
        return [headers[at + 2] for at in range(0, len(headers), 4) if headers[at].lower() == name]

    def to_worker(self) -> tuple[bytes, bytes | bytearray]:
        """Head and body as a worker gets them; a small body is part of the first."""
        headers = self.headers if self.nominated is None else self._passed_on(self.nominated)
        parts: list[bytes | bytearray] = [self.method, b" ", self.target, b" HTTP/1.1\r\n", *headers]
        if self.is_http10 and not self.host_count:
            parts.append(b"host: localhost\r\n")
        body = self.body
        if self.is_chunked or self.content_length >= 0:
            parts.append(b"content-length: %d\r\n" % len(body))
        parts.append(b"\r\n")
        if len(body) <= _JOIN_LIMIT_BYTES:
            parts.append(body)
            body = b""
        return b"".join(parts), body

    def _passed_on(self, nominated: set[bytes]) -> list[bytes]:
        headers = self.headers
        kept = (at for at in range(0, len(headers), 4) if headers[at].lower() not in nominated)
        return [part for at in kept for part in headers[at : at + 4]]
