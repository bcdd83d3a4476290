"""What the front answers by itself, and how it becomes bytes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

JSON = b"application/json"
TEXT = b"text/plain; charset=utf-8"

#: Without a body, and without a word on its length.
BODILESS = frozenset((204, 304))
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
        if self.status in BODILESS:
            announced = b""
        return b"".join((status_line(self.status), _date_line(), announced, *self.headers, connection, b"\r\n"))


def _date_line() -> bytes:
    """RFC 9110, section 6.6.1. Of one second it is made once."""
    now = int(time.time())
    if _date[0] != now:
        _date[:] = [now, b"date: %b\r\n" % formatdate(now, usegmt=True).encode()]
    line: bytes = _date[1]
    return line


#: The second, and its line.
_date: list[Any] = [0, b""]
