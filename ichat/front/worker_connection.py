"""One connection to a worker: sends a request, reads the response, tells its receiver."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol, cast

import httptools

from ichat.front.replies import status_line

if TYPE_CHECKING:
    from ichat.front.worker import Worker

#: Headers that are for one hop; the client's own hop has others.
_HOP_BY_HOP = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"trailer", b"upgrade"))
_BODILESS = frozenset((204, 304))


class ResponseReceiver(Protocol):
    """Whoever a response is for. A receiver lets go of its connection by `detach`, or is told of its end."""

    def connected(self, connection: WorkerConnection) -> None: ...

    def head_received(self, head: ResponseHead) -> None: ...

    def body_received(self, piece: bytes) -> None: ...

    def response_completed(self) -> None: ...

    def connection_failed(self, connection: WorkerConnection | None) -> None:
        """No connection, or one that ended before the response did."""


class ResponseHead:
    """What a worker said before the body. ``lines`` are the headers that are passed on, whole lines."""

    __slots__ = ("closes", "content_length", "content_length_line", "content_type", "is_chunked", "lines", "status")

    def __init__(self) -> None:
        self.status = 0
        self.lines: list[bytes] = []
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

    def encode(self, framing: bytes, connection: bytes) -> bytes:
        return b"".join((status_line(self.status), *self.lines, framing, connection, b"\r\n"))


class WorkerConnection(asyncio.Protocol):
    """Belongs to the worker while idle, to one receiver while it carries a request."""

    __slots__ = (
        "_head",
        "_is_complete",
        "_is_head_complete",
        "_is_head_told",
        "_is_paused",
        "_parser",
        "_pieces",
        "_raw_left",
        "_receiver",
        "_transport",
        "_worker",
        "has_received",
        "idle_since",
        "is_reused",
    )

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._transport: asyncio.Transport | None = None
        self._receiver: ResponseReceiver | None = None
        self._parser: Any = None
        self._head = ResponseHead()
        self._pieces: list[bytes] = []
        self._is_head_complete = self._is_head_told = self._is_complete = False
        self._is_paused = False
        self._raw_left = 0  # of a long body of known length, which needs no parser
        self.has_received = False  # a byte of the present response
        self.is_reused = False  # it was idle before it got this request: it may have ended in the meantime
        self.idle_since = 0.0  # 0: carries a request

    # ---- for the receiver ---------------------------------------------------------------------------------

    @property
    def is_usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def send(self, receiver: ResponseReceiver, head: bytes, body: bytes | bytearray) -> None:
        assert self._transport is not None
        self._receiver = receiver
        if self._parser is None:
            self._parser = httptools.HttpResponseParser(self)
        self._is_head_complete = self._is_head_told = self._is_complete = self.has_received = False
        self.is_reused = self.idle_since > 0
        self.idle_since = 0.0
        if body:
            self._transport.writelines((head, body))
        else:
            self._transport.write(head)

    def detach(self) -> None:
        """The receiver wants no more of the response: the worker sees the connection end, and aborts the request."""
        self._receiver = None
        self.abort()

    def pause(self) -> None:
        if not self._is_paused and self._transport is not None and not self._transport.is_closing():
            self._is_paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._is_paused and self._transport is not None and not self._transport.is_closing():
            self._is_paused = False
            self._transport.resume_reading()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # ---- called by the loop -------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._worker.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._parser = None  # a ring that only the garbage collector could break
        self._worker.closed(self)
        head, receiver = self._head, self._receiver
        is_open_ended = self._is_head_told and not (head.is_chunked or head.has_length or head.is_event_stream)
        if exc is None and is_open_ended and receiver is not None:  # this is how such a body ends
            self._receiver = None
            receiver.response_completed()
        else:
            self._fail()

    def data_received(self, data: bytes) -> None:
        receiver = self._receiver
        if receiver is None:  # nobody asked: whatever it is, it must not become somebody's answer
            self.abort()
            return
        self.has_received = True
        if self._raw_left:
            self._pass_raw(receiver, data)
            return
        is_sound = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            is_sound = False
        if self._is_complete or is_sound:
            self._tell(receiver, is_sound=is_sound)
        else:
            self._fail()
            self.abort()

    # ---- called by the parser -----------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._is_complete:  # a response more than there were requests
            raise ValueError("unasked response")
        self._head = ResponseHead()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_head_complete:  # a trailer
            return
        head, lowered = self._head, name.lower()
        if lowered == b"content-length":
            head.content_length = int(value)
            head.content_length_line = b"%b: %b\r\n" % (name, value)
            return
        if lowered == b"transfer-encoding":
            head.is_chunked = True
            return
        if lowered == b"content-type":
            head.content_type = value.lower()
        elif lowered in _HOP_BY_HOP:
            head.closes |= value.lower() == b"close"
            return
        head.lines.append(b"%b: %b\r\n" % (name, value))

    def on_headers_complete(self) -> None:
        head, parser = self._head, self._parser
        head.status = parser.get_status_code()
        head.closes |= parser.get_http_version() != "1.1"
        self._is_head_complete = head.status >= 200

    def on_body(self, piece: bytes) -> None:
        self._pieces.append(piece)

    def on_message_complete(self) -> None:
        self._is_complete = self._is_head_complete  # 1xx only announces the response

    # ---- telling ------------------------------------------------------------------------------------------

    def _tell(self, receiver: ResponseReceiver, *, is_sound: bool) -> None:
        if not self._is_head_complete:
            return
        is_complete = self._is_complete
        if not self._is_head_told:
            self._is_head_told = True
            receiver.head_received(self._head)
        if self._pieces:
            piece = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
            self._pieces.clear()
            self._skip_parser(len(piece))
            if self._receiver is receiver:
                receiver.body_received(piece)
        if is_complete and self._receiver is receiver:
            self._give_back(is_reusable=is_sound)
            receiver.response_completed()

    def _skip_parser(self, received: int) -> None:
        """A body of known length that is not here yet is only counted from now on."""
        if self._head.content_length > received and not self._is_complete:
            self._raw_left = self._head.content_length - received
            self._parser = None  # it would wait for the rest

    def _pass_raw(self, receiver: ResponseReceiver, data: bytes) -> None:
        self._raw_left -= len(data)
        if self._raw_left < 0:  # more than it announced: the rest belongs to nobody
            data = data[: self._raw_left]
        is_exact = self._raw_left == 0
        if is_complete := self._raw_left <= 0:
            self._raw_left = 0
        receiver.body_received(data)
        if is_complete and self._receiver is receiver:
            self._give_back(is_reusable=is_exact)
            receiver.response_completed()

    def _give_back(self, *, is_reusable: bool) -> None:
        self._receiver = None
        if is_reusable and not self._head.closes and self.is_usable:
            self.resume()
            self._worker.take_back(self)
        else:
            self.close()

    def _fail(self) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.connection_failed(self)
