"""What the front answers by itself, and how it becomes bytes."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus

JSON = b"application/json"
TEXT = b"text/plain; charset=utf-8"

#: The first line of a response, by status.
STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


def status_line(status: int) -> bytes:
    return STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


@dataclass(frozen=True, slots=True)
class Reply:
    """``headers`` are whole lines. ``closes``: the connection ends after it."""

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: tuple[bytes, ...] = ()
    closes: bool = False

    def encode(self, connection: bytes, *, is_head: bool = False) -> bytes:
        """``connection`` is the connection's header line, or nothing; to a HEAD the body is only announced."""
        head = self.encode_head(connection, len(self.body))
        return head if is_head else head + self.body

    def encode_head(self, connection: bytes, length: int) -> bytes:
        """For a body of this length that is written apart."""
        announced = b"content-type: %b\r\ncontent-length: %d\r\n" % (self.content_type, length)
        return b"".join((status_line(self.status), announced, *self.headers, connection, b"\r\n"))
