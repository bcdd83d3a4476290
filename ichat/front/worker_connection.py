"""One connection to a worker: sends a request, reads the response, tells its receiver."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Protocol, cast

import httptools

from ichat.front.replies import status_line

if TYPE_CHECKING:
    from ichat.front.worker import Worker

#: Headers that the client's hop gets in its own way, or not at all.
_OWN_HEADERS = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"trailer", b"upgrade", b"transfer-encoding", b"content-length")
)
_BODILESS = frozenset((204, 304))


class ResponseHead:
    """What a worker said before the body.

    ``headers`` are those that are passed on, each as name, ``b": "``, value, ``b"\\r\\n"``.
    """

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


class ResponseReceiver(Protocol):
    """Whoever a response is for. It lets go of a connection by `detach`, or is told of its end.

    A response that came in one read is told by `answer_received` alone; any other by `head_received`, then
    `body_received` as often as needed, then `response_completed`. When the last of them is called the connection
    has already been given back.
    """

    def connected(self, connection: WorkerConnection) -> None: ...

    def answer_received(self, head: ResponseHead, body: bytes) -> None: ...

    def head_received(self, head: ResponseHead) -> None: ...

    def body_received(self, piece: bytes) -> None: ...

    def response_completed(self) -> None: ...

    def connection_failed(self, connection: WorkerConnection | None) -> None:
        """No connection, or one that ended before the response did."""


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
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if not self._is_complete:
                self._fail()
                self.abort()
                return
            self._head.closes = True  # what came behind the answer makes the connection unusable
        if self._is_complete and not self._is_head_told:
            body = self._taken()
            self._give_back()
            receiver.answer_received(self._head, body)
        elif self._is_head_complete:
            self._tell(receiver)

    # ---- called by the parser -----------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._is_complete:
            raise ValueError("a response more than there were requests")
        self._head = ResponseHead()

    def on_header(self, name: bytes, value: bytes) -> None:
        head = self._head
        lowered = name.lower()
        if lowered in _OWN_HEADERS:
            head.take(lowered, name, value)
        elif not self._is_head_complete:  # else a trailer
            if lowered == b"content-type":
                head.content_type = value.lower()
            head.headers += (name, b": ", value, b"\r\n")

    def on_headers_complete(self) -> None:
        self._head.status = status = self._parser.get_status_code()
        self._is_head_complete = status >= 200

    def on_body(self, piece: bytes) -> None:
        self._pieces.append(piece)

    def on_message_complete(self) -> None:
        self._is_complete = self._is_head_complete  # 1xx only announces the response

    # ---- telling ------------------------------------------------------------------------------------------

    def _taken(self) -> bytes:
        """The body as far as it has come since the last time."""
        pieces = self._pieces
        if not pieces:
            return b""
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        return body

    def _tell(self, receiver: ResponseReceiver) -> None:
        if not self._is_head_told:
            self._is_head_told = True
            receiver.head_received(self._head)
        if (piece := self._taken()) and self._receiver is receiver:
            if self._head.content_length > len(piece) and not self._is_complete:
                # A body of known length that is not all here is only counted from now on.
                self._raw_left = self._head.content_length - len(piece)
                self._parser = None  # it would wait for the rest
            receiver.body_received(piece)
        if self._is_complete and self._receiver is receiver:
            self._give_back()
            receiver.response_completed()

    def _pass_raw(self, receiver: ResponseReceiver, data: bytes) -> None:
        self._raw_left -= len(data)
        if is_complete := self._raw_left <= 0:
            if self._raw_left < 0:  # more than was announced: the rest belongs to nobody
                self._head.closes = True
                data = data[: self._raw_left]
            self._raw_left = 0
        receiver.body_received(data)
        if is_complete and self._receiver is receiver:
            self._give_back()
            receiver.response_completed()

    def _give_back(self) -> None:
        self._receiver = None
        if self._head.closes or not self.is_usable:
            self.close()
            return
        if self._is_paused:
            self.resume()
        self._worker.take_back(self)

    def _fail(self) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.connection_failed(self)
