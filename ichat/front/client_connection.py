"""One connection of a client: requests in, answers out, in order and each within its time."""

from __future__ import annotations

import asyncio
import math
import socket
import struct
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from ichat.front import request_id
from ichat.front.errors import REQUEST_TIMEOUT, TOO_MANY_CONNECTIONS, Failure
from ichat.front.exchange import Exchange, State
from ichat.front.replies import Reply
from ichat.front.request_reader import RequestReader

if TYPE_CHECKING:
    from ichat.config.schema import Timeouts
    from ichat.front.reception import Reception
    from ichat.front.request import Request
    from ichat.front.response_body import Data

#: Unsent bytes beyond which a client counts as slow, and its worker is not read any further.
WRITE_BUFFER_BYTES = 32 * 1024
#: Bytes of further requests that are kept while one is served.
_EARLY_LIMIT_BYTES = 64 * 1024
_BODY_BYTES_PER_S = 64 * 1024
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
#: The first byte of TCP_INFO (include/net/tcp_states.h): the connection was reset; the peer has closed its side.
_CLOSE, _CLOSE_WAIT = 7, 8
#: To a client that sends no more: one that has left altogether answers with a reset, one that waits passes over it.
_STILL_AT_WORK = b"HTTP/1.1 102 Processing\r\n\r\n"


# Looked up in the enumeration they would cost more than what they decide.
_IDLE, _HEAD, _BODY, _SERVING, _CLOSING = State


class ClientConnection(asyncio.Protocol):
    """``deadline`` is when the sweep calls `expire`. ``is_surplus``: one connection more than there may be.

    While a client does not read what it was sent (more than WRITE_BUFFER_BYTES of it) no further request of it is
    begun: it stays in the state SERVING, without an exchange.
    """

    __slots__ = (
        "_body_bytes",
        "_body_since",
        "_early",
        "_exchange",
        "_failure",
        "_has_begun",
        "_is_half_closed",
        "_is_paused",
        "_is_slow",
        "_reader",
        "_reception",
        "_request",
        "_stalled_bytes",
        "_timeouts",
        "_transport",
        "deadline",
        "is_surplus",
        "state",
    )

    def __init__(self, reception: Reception) -> None:
        self._reception = reception
        self._timeouts: Timeouts = reception.timeouts
        self._reader = RequestReader(
            reception.limits, reception.judge, reception.known, self._acknowledge, reception.bodies
        )
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._request: Request | None = None  # that is served
        self._failure: Failure | None = None  # of the bytes behind the requests that are complete
        self._early = b""
        self._is_paused = False  # because of the early bytes
        self._is_slow = False  # the client has not read what it was sent
        self._is_half_closed = False  # the client sends no more
        self._has_begun = False  # a byte was written since the request was begun
        self._stalled_bytes = 0
        self._body_since = 0.0
        self._body_bytes = 0  # of the request that is served
        self.state = _IDLE
        self.deadline = math.inf
        self.is_surplus = False

    # ---- called by the loop -------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        self.deadline = time.monotonic() + self._timeouts.idle_s
        if not self._reception.opened(self):
            self._refuse_and_close(TOO_MANY_CONNECTIONS)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.state, self.deadline = _CLOSING, math.inf
        self._transport = None
        self._reader.release()
        self._reception.closed(self)
        if self._exchange is not None:
            self._exchange.client_left()
        self._let_go()
        self._reception.bodies.count -= len(self._early)
        self._early = b""

    def eof_received(self) -> bool:
        """A client that sends no more may still wait for its answer, or may have left. True keeps our side open.

        One that closes its side behind its request waits, as long as it takes an interim response without a reset. One
        that closes it in the middle of an answer leaves; so does one that cannot be asked (TLS, HTTP/1.0).
        """
        if self._exchange is None and not self._has_more:
            return False
        if not self._may_be_half_closed():
            self._abort()
            return False
        self._is_half_closed = True
        if self._exchange is not None and self._transport is not None:
            self._transport.write(_STILL_AT_WORK)
        return True

    def _may_be_half_closed(self) -> bool:
        if self._transport is None or not self._transport.can_write_eof():
            return False
        if self._exchange is None:
            return True
        return not (self._has_begun or self._request is None or self._request.is_http10)

    @property
    def _has_more(self) -> bool:
        """Requests that were sent ahead."""
        return bool(self._reader.complete or self._early)

    def data_received(self, data: bytes) -> None:
        if self.state is _CLOSING:
            return
        if self.state is _SERVING:
            self._keep_early(data)
            return
        self._failure = self._reader.feed(data)
        self._proceed()

    def pause_writing(self) -> None:
        self._is_slow = True
        self._stalled_bytes = self.unsent_bytes
        self.deadline = time.monotonic() + self._timeouts.write_stall_s
        if self._exchange is not None:
            self._exchange.pause()

    def resume_writing(self) -> None:
        self._is_slow = False
        if self._exchange is not None:
            self.deadline = math.inf
            self._exchange.resume()
        elif self.state is _SERVING:
            self._go_on()

    # ---- called by an exchange ----------------------------------------------------------------------------

    def write(self, data: Data) -> None:
        if self._transport is not None:
            self._has_begun = True
            self._transport.write(data)

    def write_all(self, parts: Sequence[Data]) -> None:
        if self._transport is not None:
            self._has_begun = True
            self._transport.writelines(parts)

    def own_lines(self, request: Request, keep_alive: bool) -> bytes:
        """The header lines that are for this client: what becomes of the connection, and who may read the answer."""
        lines = self._reception.origins.lines(request.origin) if request.origin else b""
        if not keep_alive or self._is_at_end or self._reception.is_draining:
            return lines + b"connection: close\r\n"
        return lines + b"connection: keep-alive\r\n" if request.is_http10 else lines

    def reply(self, request: Request, reply: Reply) -> None:
        """Write a whole answer. The exchange still has to end."""
        lines = self.own_lines(request, request.keep_alive and not reply.closes)
        self.write(reply.encode(lines, is_head=request.method == b"HEAD"))

    def refuse(self, request: Request, failure: Failure, model: str = "") -> None:
        self._reception.traffic.refuse(failure.code, model, request.key_name)
        self.reply(request, failure.reply(request.dialect, *request_id.lines(request, failure)))

    def exchange_ended(self, *, keep_alive: bool) -> None:
        self._let_go()
        if not keep_alive or self._is_at_end or self._reception.is_draining:
            self._close()
        elif self._is_slow:
            return  # the state and the deadline stay: `resume_writing` goes on
        elif self._has_more or self._failure is not None or not self._reader.is_between_requests:
            # Requests sent ahead. The state stays, so that bytes that arrive now wait for their turn.
            asyncio.get_running_loop().call_soon(self._go_on)
        else:
            self.state = _IDLE
            self.deadline = time.monotonic() + self._timeouts.idle_s

    def cut(self, *, is_framed: bool) -> None:
        """End the connection so that the client cannot take what it has for the whole.

        Where the framing shows that something is missing the client gets what there is; else only a reset tells it.
        """
        self._let_go()
        if is_framed:
            self._close()
        elif self._transport is not None:
            sock: socket.socket = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self._abort()

    # ---- called by the front ------------------------------------------------------------------------------

    def expire(self) -> None:
        """The deadline has passed."""
        if self.state in (_HEAD, _BODY):
            self._refuse_and_close(REQUEST_TIMEOUT)
        elif self.state is _SERVING:
            unsent = self.unsent_bytes
            if unsent == self._stalled_bytes:
                self._abort()
            else:  # slow, but it reads
                self._stalled_bytes = unsent
                self.deadline = time.monotonic() + self._timeouts.write_stall_s
        elif self.state is _CLOSING or self.unsent_bytes:
            self._abort()
        else:
            self._close()

    @property
    def is_deaf(self) -> bool:
        """Nothing is read, so that the client's leaving would not be seen."""
        return self._is_paused or self._is_half_closed

    def look_for_answer(self, limit_s: float, now: float) -> None:
        if self._exchange is not None:
            self._exchange.look_for_answer(limit_s, now)

    def look_for_leaving(self) -> None:
        """Ask the kernel what became of a client that is not read."""
        sock: socket.socket | None = self._transport.get_extra_info("socket") if self._transport is not None else None
        if sock is None:
            return
        state = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        if state == _CLOSE or (state == _CLOSE_WAIT and not self._is_half_closed and not self.eof_received()):
            self._abort()

    def close_if_idle(self) -> None:
        if self.state is _IDLE:
            self._close()

    def end(self, failure: Failure) -> None:
        """End the answer that is being given, if there is one; one that has not begun becomes this failure."""
        if self._exchange is not None:
            self._exchange.end(failure)

    # ---- requests -----------------------------------------------------------------------------------------

    def _acknowledge(self) -> None:
        self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    @property
    def _is_at_end(self) -> bool:
        """The client sends no more, and all that it has sent is served."""
        return self._is_half_closed and not self._has_more

    def _go_on(self) -> None:
        if self.state is not _SERVING or self._exchange is not None or self._is_slow:
            return
        if self._reception.is_draining:
            self._close()
            return
        self.state = _IDLE
        if not self._reader.complete and self._failure is None:
            early, self._early = self._early, b""
            self._reception.bodies.count -= len(early)
            if self._is_paused and self._transport is not None:
                self._is_paused = False
                self._transport.resume_reading()
            if early:
                self._failure = self._reader.feed(early)
        self._proceed()

    def _proceed(self) -> None:
        """Serve what is complete, one at a time; then wait for more, or refuse what cannot be read."""
        complete = self._reader.complete
        while complete:
            self._serve(complete.popleft())
            if self.state in (_SERVING, _CLOSING):
                return
            if self._is_slow:
                self.state = _SERVING
                return
        if self._failure is not None:
            self._refuse_and_close(self._failure)
        else:
            self._await_more()

    def _serve(self, request: Request) -> None:
        self._body_bytes = len(request.body)
        self._request, self._has_begun = request, False
        failure = TOO_MANY_CONNECTIONS if self.is_surplus and request.route is not None else request.failure
        if failure is not None:
            self.refuse(request, failure)
            keep_alive = request.keep_alive and not failure.closes
        elif isinstance(answer := self._reception.answer(request), Reply):
            self.reply(request, answer)
            keep_alive = request.keep_alive and not answer.closes
        elif isinstance(answer, Failure):
            self.refuse(request, answer)
            keep_alive = request.keep_alive and not answer.closes
        else:
            self.state, self.deadline = _SERVING, math.inf
            self._exchange = answer
            answer.start(self)
            return
        self._let_go()
        if not keep_alive or self.is_surplus or self._reception.is_draining:
            self._close()

    def _await_more(self) -> None:
        now, request = time.monotonic(), self._reader.request
        if self._is_half_closed:  # what is missing will not come
            self._close()
            return
        if self._reader.owes_continue:
            self._reader.owes_continue = False
            self._acknowledge()
        if self._reader.is_between_requests:
            self.state, self.deadline = _IDLE, now + self._timeouts.idle_s
        elif request is None or not request.is_head_complete:
            if self.state is not _HEAD:
                self.state, self.deadline = _HEAD, now + self._timeouts.receive_headers_s
        else:
            if self.state is not _BODY:
                self.state, self._body_since = _BODY, now
            allowance_s = len(request.body) / _BODY_BYTES_PER_S
            self.deadline = self._body_since + self._timeouts.receive_body_s + allowance_s

    def _keep_early(self, data: bytes) -> None:
        self._early += data
        self._reception.bodies.count += len(data)
        bodies = self._reception.bodies
        is_much = len(self._early) > _EARLY_LIMIT_BYTES or bodies.count > bodies.limit
        if is_much and not self._is_paused and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()

    def _let_go(self) -> None:
        """Of the request that was served, and of whoever answered it."""
        self._exchange = self._request = None
        self._reception.bodies.count -= self._body_bytes
        self._body_bytes = 0

    # ---- the end ------------------------------------------------------------------------------------------

    def _refuse_and_close(self, failure: Failure) -> None:
        """Answer a request that was not read to its end, and keep reading for a moment.

        Closing a socket with unread bytes resets the connection, and the client would lose the answer.
        """
        self._reception.traffic.refuse(failure.code)
        request = self._reader.request
        lines = b"" if request is None or not request.origin else self._reception.origins.lines(request.origin)
        self._reader.release()
        reply = failure.reply("openai", *request_id.lines(request, failure))
        self.write(reply.encode(lines + b"connection: close\r\n"))
        self.state = _CLOSING
        self.deadline = time.monotonic() + self._timeouts.receive_headers_s
        if self._transport is not None and not self._transport.is_closing() and self._transport.can_write_eof():
            self._transport.write_eof()

    def _close(self) -> None:
        self.state = _CLOSING
        self.deadline = time.monotonic() + self._timeouts.write_stall_s
        if self._transport is not None:
            self._transport.close()

    def _abort(self) -> None:
        self.state = _CLOSING
        if self._transport is not None:
            self._transport.abort()

    @property
    def unsent_bytes(self) -> int:
        return 0 if self._transport is None else self._transport.get_write_buffer_size()
