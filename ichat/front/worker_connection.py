"""One connection to a worker: sends a request, reads the response, tells its receiver."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol, cast

import httptools

from ichat.front.known_heads import take_apart
from ichat.front.response_head import OWN_HEADERS, ResponseHead

if TYPE_CHECKING:
    from ichat.front.response_body import Data
    from ichat.front.worker import Worker

_LONG_READ_BYTES = 16 * 1024
_HIGHEST_STATUS = 599


class ResponseReceiver(Protocol):
    """Whoever a response is for. It lets go of a connection by `detach`, or is told of its end.

    A response that came in one read is told by `answer_received` alone; any other by `head_received`, then
    `body_received` as often as needed, then `response_completed`. When the last of them is called the connection
    has already been given back.
    """

    def connected(self, connection: WorkerConnection) -> None: ...

    def answer_received(self, head: ResponseHead, body: bytes) -> None: ...

    def head_received(self, head: ResponseHead) -> None: ...

    def body_received(self, piece: Data) -> None: ...

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
        "was_refused",
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
        self.was_refused = False  # it ended before the worker had read the request
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
        """The kernel tells what became of the request: it resets a unix socket that is closed with unread bytes, or
        refuses to write to it. One that simply ends was closed by a worker that had read everything.
        """
        self.was_refused = isinstance(exc, ConnectionResetError | BrokenPipeError) and not self.has_received
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
        if self._raw_left:
            self._pass_raw(receiver, data)
        elif len(data) > _LONG_READ_BYTES and not self._is_head_complete:
            self._receive_long(receiver, data)
        elif not self.has_received:
            self._receive_first(receiver, data)
        elif self._parse(data):
            self._tell(receiver)

    # ---- called by the parser -----------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._is_complete:
            raise ValueError("a response more than there were requests")
        self._head = ResponseHead()

    def on_header(self, name: bytes, value: bytes) -> None:
        head = self._head
        lowered = name.lower()
        if lowered in OWN_HEADERS:
            head.take(lowered, name, value)
        elif not self._is_head_complete:  # else a trailer
            if lowered == b"content-type":
                head.content_type = value.lower()
            head.headers += (name, b": ", value, b"\r\n")

    def on_headers_complete(self) -> None:
        self._head.status = status = self._parser.get_status_code()
        if status > _HIGHEST_STATUS:
            raise ValueError(f"{status} is no status of HTTP")
        self._is_head_complete = status >= 200

    def on_body(self, piece: bytes) -> None:
        self._pieces.append(piece)

    def on_message_complete(self) -> None:
        self._is_complete = self._is_head_complete  # 1xx only announces the response

    # ---- telling ------------------------------------------------------------------------------------------

    def _receive_first(self, receiver: ResponseReceiver, data: bytes) -> None:
        """Most answers come in one read, and most heads have come before."""
        apart = take_apart(data)
        if apart is not None and (known := self._worker.heads.recall(apart[0])) is not None:
            self.has_received, self._head = True, known
            self._give_back()
            receiver.answer_received(known, apart[1])
        elif self._parse(data):
            if apart is not None and self._is_complete and self._head.is_repeatable:
                self._worker.heads.remember(apart[0], self._head)
            self._tell(receiver)

    def _parse(self, data: Data) -> bool:
        """False: what came is no response, and the receiver knows."""
        self.has_received = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if not self._is_complete:
                self._fail()
                self.abort()
                return False
            self._head.closes = True  # what came behind the answer makes the connection unusable
        return True

    def _receive_long(self, receiver: ResponseReceiver, data: bytes) -> None:
        """The parser copies what it takes for a body, so it gets no more than the head of a long answer."""
        end = data.find(b"\r\n\r\n") + 4
        if not self._parse(data[:end]):
            return
        rest, head = memoryview(data)[end:], self._head
        if self._is_head_complete and head.content_length > 0 and not self._is_complete:
            self._is_head_told = True
            self._count_from_here(head.content_length)
            receiver.head_received(head)
            if self._receiver is receiver:
                self._pass_raw(receiver, rest)
        elif self._parse(rest):
            self._tell(receiver)

    def _count_from_here(self, left: int) -> None:
        """What is left of a body of known length needs no parser."""
        self._raw_left = left
        self._parser = None  # it would wait for the rest

    def _taken(self) -> bytes:
        """The body as far as it has come since the last time."""
        pieces = self._pieces
        if not pieces:
            return b""
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        return body

    def _tell(self, receiver: ResponseReceiver) -> None:
        if not self._is_head_complete:
            return
        is_complete = self._is_complete
        if not self._is_head_told:
            if is_complete:
                body = self._taken()
                self._give_back()
                receiver.answer_received(self._head, body)
                return
            self._is_head_told = True
            receiver.head_received(self._head)
        if (piece := self._taken()) and self._receiver is receiver:
            if self._head.content_length > len(piece) and not is_complete:
                self._count_from_here(self._head.content_length - len(piece))
            receiver.body_received(piece)
        if is_complete and self._receiver is receiver:
            self._give_back()
            receiver.response_completed()

    def _pass_raw(self, receiver: ResponseReceiver, data: Data) -> None:
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
