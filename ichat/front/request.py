"""One request of a client, as it came, and the bytes that a worker is sent for it."""

from __future__ import annotations

from ichat.front.errors import Dialect, Failure
from ichat.front.routes import Route

#: Up to here head and body are joined, so that they leave in one packet; beyond it a copy costs more.
_JOIN_LIMIT_BYTES = 64 * 1024


class Request:
    """Filled by the RequestReader while it arrives; nothing changes it once it is complete."""

    __slots__ = (
        "_wire",
        "api_keys",
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
        "key_name",
        "method",
        "nominated",
        "origin",
        "path",
        "route",
        "target",
        "upgrade",
        "waits_for_continue",
        "wants_close",
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
        self.api_keys: list[bytes] = []  # x-api-key, which an engine is not told
        self.origin = b""  # of the web page that sends it
        self.upgrade = b""  # the protocols that it would rather speak
        self.wants_close = False  # Connection: close
        self.keep_alive = False
        self.content_encoding = b""
        self.nominated: set[bytes] | None = None  # headers that Connection declares to be for this hop only
        self.key_name = ""  # of the API key that it came with
        self.route: Route | None = None
        self.failure: Failure | None = None  # known from the head; told when the body has been read
        self._wire = b""  # request line and headers as a worker gets them

    @property
    def is_for_worker(self) -> bool:
        """Known from the head: a worker will be sent it. Else the front answers by itself, and needs no body for it."""
        return self.failure is None and self.route is not None and self.method != b"OPTIONS"

    @property
    def is_repeatable(self) -> bool:
        """Another request with this head, and another length, means the same and is served the same way."""
        is_plain = self.keep_alive and not self.is_http10 and not self.waits_for_continue
        return is_plain and self.content_length >= 0 and self.is_for_worker

    def template(self) -> Request:
        """What may be kept to make others of: it holds no body."""
        if not self._wire:
            self._to_wire()
        return self.again(b"")

    def again(self, body: bytes) -> Request:
        """One more request with this head. What is only of use while a head is read is left out."""
        other = Request.__new__(Request)
        other.method, other.target, other.path = self.method, self.target, self.path
        other.headers, other.nominated, other._wire = self.headers, self.nominated, self._wire
        other.body, other.content_length = body, len(body)
        other.is_http10 = other.is_chunked = False
        other.is_head_complete = other.keep_alive = True
        other.host_count, other.route, other.failure = 1, self.route, None
        other.key_name, other.origin = self.key_name, self.origin
        return other

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

    def to_origin_form(self) -> None:
        """Of a whole URL the path is what counts here (RFC 9112, section 3.2.2)."""
        scheme, found, rest = self.target.partition(b"://")
        if found and scheme.lower() in (b"http", b"https"):
            _, slash, path = rest.partition(b"/")
            self.target = slash + path or b"/"

    def framing_head(self) -> bytes:
        """A head that says no more than where this request's body ends, and what becomes of the connection."""
        version = b"HTTP/1.0" if self.is_http10 else b"HTTP/1.1"
        length = b"content-length: %d\r\n" % self.content_length if self.content_length >= 0 else b""
        coding = b"transfer-encoding: chunked\r\n" if self.is_chunked else b""
        close = b"connection: close\r\n" if self.wants_close else b""
        return b"".join((self.method, b" / ", version, b"\r\nhost: a\r\n", length, coding, close, b"\r\n"))

    def values(self, name: bytes) -> list[bytes]:
        """Of all headers of this name, which is in lower case."""
        headers = self.headers
        return [headers[at + 2] for at in range(0, len(headers), 4) if headers[at].lower() == name]

    def to_worker(self) -> tuple[bytes, bytes | bytearray]:
        """Head and body as a worker gets them; a small body is part of the first."""
        wire, body = self._wire or self._to_wire(), self.body
        has_length = self.is_chunked or self.content_length >= 0
        length = b"content-length: %d\r\n\r\n" % len(body) if has_length else b"\r\n"
        if len(body) <= _JOIN_LIMIT_BYTES:
            return b"".join((wire, length, body)), b""
        return wire + length, body

    def _to_wire(self) -> bytes:
        headers = self.headers if self.nominated is None else self._passed_on(self.nominated)
        host = b"host: localhost\r\n" if self.is_http10 and not self.host_count else b""
        self._wire = b"".join((self.method, b" ", self.target, b" HTTP/1.1\r\n", *headers, host))
        return self._wire

    def _passed_on(self, nominated: set[bytes]) -> list[bytes]:
        headers = self.headers
        kept = (at for at in range(0, len(headers), 4) if headers[at].lower() not in nominated)
        return [part for at in kept for part in headers[at : at + 4]]
