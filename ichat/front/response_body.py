"""How the body of a response goes on to the client: whole, as it comes, in chunks, or event by event.

A body takes what the worker sent (``feed``) and gives what may be written now; ``finish`` gives the rest, in parts,
after a proper end. The head of the response leaves together with the first bytes that a body gives, so that as long as
nothing was given a worker's end can still become an honest status.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from ichat.front.usage import TAIL_BYTES

if TYPE_CHECKING:
    from ichat.front.response_head import ResponseHead

Data = bytes | memoryview

#: JSON answers up to this length are held until they are complete.
_HELD_ANSWER_BYTES = 256 * 1024
#: An event longer than this is passed on in pieces.
_HELD_EVENT_BYTES = 256 * 1024

CHUNKED = b"transfer-encoding: chunked\r\n"
_LAST_CHUNK = b"0\r\n\r\n"
_BLANK_LINES = (b"\n\n", b"\n\r\n", b"\r\r")


class ResponseBody(Protocol):
    def feed(self, piece: Data) -> Data: ...

    def finish(self) -> Sequence[Data]: ...

    def tail(self) -> bytes:
        """The end of what was fed, for who looks for what an engine writes there. Enough of it, not exactly so much."""

    def cut(self, last_events: bytes) -> bytes | None:
        """What ends the body honestly after a worker's end; None: only cutting the connection does."""


class HeldBody:
    """A short answer of known length: the client gets all of it or an error."""

    __slots__ = ("_pieces",)

    def __init__(self) -> None:
        self._pieces: list[Data] = []

    def feed(self, piece: Data) -> Data:
        self._pieces.append(piece)
        return b""

    def finish(self) -> Sequence[Data]:
        return self._pieces  # joining them would cost more than sending them

    def tail(self) -> bytes:
        return _end_of(*self._pieces[-2:])

    def cut(self, last_events: bytes) -> bytes | None:
        del last_events
        return None


class PlainBody:
    """As it comes: its length was announced, or its end is the end of the connection."""

    __slots__ = ("_last", "_last_but_one")

    def __init__(self) -> None:
        self._last: Data = b""
        self._last_but_one: Data = b""

    def feed(self, piece: Data) -> Data:
        self._last_but_one, self._last = self._last, piece if len(piece) <= TAIL_BYTES else bytes(piece[-TAIL_BYTES:])
        return piece

    def tail(self) -> bytes:
        return _end_of(self._last_but_one, self._last)

    def finish(self) -> Sequence[Data]:
        return ()

    def cut(self, last_events: bytes) -> bytes | None:
        del last_events
        return None


class ChunkedBody(PlainBody):
    """As it comes, one chunk for each read."""

    __slots__ = ()

    def feed(self, piece: Data) -> Data:
        super().feed(piece)
        return b"".join((b"%x\r\n" % len(piece), piece, b"\r\n"))

    def finish(self) -> Sequence[Data]:
        return (_LAST_CHUNK,)


class EventBody:
    """Server-sent events, whole ones only: what follows the last blank line is held back.

    So at any moment an error event may follow what the client has. ``is_chunked`` is False towards HTTP/1.0, where
    the end of the connection ends the body.
    """

    __slots__ = ("_held", "_is_chunked", "_is_done", "_is_open", "_last", "_last_but_one", "_last_but_two")

    def __init__(self, *, is_chunked: bool) -> None:
        self._is_chunked = is_chunked
        self._held = b""
        self._is_open = False  # a part of an overlong event has been passed on
        self._is_done = False  # the last event passed on was OpenAI's last one
        # Behind the event that has the usage come one or two more, each perhaps in a read of its own.
        self._last = self._last_but_one = self._last_but_two = b""

    def feed(self, data: Data) -> bytes:
        piece = self._held + data if self._held else bytes(data)
        if piece.endswith(b"\n\n"):
            end = len(piece)
        else:
            end = _end_of_events(piece)
            if not end and len(piece) > _HELD_EVENT_BYTES:
                self._is_open, self._held = True, b""
                return self._framed(piece)
        self._held = piece[end:]
        if not end:
            return b""
        events = piece[:end]
        self._last_but_two, self._last_but_one = self._last_but_one, self._last
        self._last = events if len(events) <= TAIL_BYTES else events[-TAIL_BYTES:]
        self._is_done = b"[DONE]" in events[-10:]
        self._is_open = False
        return self._framed(events)

    def finish(self) -> Sequence[Data]:
        rest = self._framed(self._held) if self._held else b""
        return (rest + _LAST_CHUNK if self._is_chunked else rest,)

    def tail(self) -> bytes:
        return b"".join((self._last_but_two, self._last_but_one, self._last, self._held))

    def cut(self, last_events: bytes) -> bytes | None:
        last = _LAST_CHUNK if self._is_chunked else b""
        if self._is_done:  # only the framing is missing
            return last
        return self._framed(b"\n\n" + last_events if self._is_open else last_events) + last

    def _framed(self, events: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(events), events) if self._is_chunked else events


def _end_of(*pieces: Data) -> bytes:
    return b"".join(bytes(piece[-TAIL_BYTES:]) for piece in pieces)


def _end_of_events(data: bytes) -> int:
    """Where the last whole event ends: behind a blank line, whichever line end it is made of."""
    return max((at + len(blank) for blank in _BLANK_LINES if (at := data.rfind(blank)) >= 0), default=0)


def body_of(head: ResponseHead, *, is_http10: bool) -> tuple[ResponseBody, bytes]:
    """How the body goes on, and the header line that says so."""
    if head.is_event_stream:
        return EventBody(is_chunked=not is_http10), b"" if is_http10 else CHUNKED
    if head.has_length:
        is_short = head.content_length <= _HELD_ANSWER_BYTES
        return HeldBody() if is_short else PlainBody(), head.content_length_line
    if head.is_chunked and not is_http10:
        return ChunkedBody(), CHUNKED
    return PlainBody(), b""
