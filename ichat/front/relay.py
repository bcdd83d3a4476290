"""One request on its way to a worker and back: the choice, the one retry, the answer, and an honest end."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from ichat.front.errors import (
    ABORTED,
    WORKER_LOST,
    WORKER_UNREACHED,
    Failure,
    answer_timeout,
    engine_busy,
    engine_error,
)
from ichat.front.placement import Placement
from ichat.front.response_body import CHUNKED, Data, EventBody, ResponseBody, body_of
from ichat.front.traffic import ENOUGH
from ichat.front.usage import TAIL_BYTES

if TYPE_CHECKING:
    from ichat.front.client_connection import ClientConnection
    from ichat.front.request import Request
    from ichat.front.response_head import ResponseHead
    from ichat.front.routing import RoutingTable
    from ichat.front.traffic import Traffic
    from ichat.front.worker_connection import WorkerConnection

#: Said by an engine of itself, without inner details: this model cannot do that.
_NOT_IMPLEMENTED = 501
_FAILED, _BUSY = 500, 503
#: The words of both engines' web framework for a path, or a method on it, that is not there.
_LACKS = (b'{"detail":"Not Found"}', b'{"detail":"Method Not Allowed"}')
_LACKING = (404, 405)
#: How a stream begins, chunked or not, that has an end and nothing before it.
_NOTHING_SAID = re.compile(rb"(?:[0-9a-f]+\r\n)?data: \[DONE\]")
#: All that is passed on of an engine's own failure.
_KEPT_OF_A_FAILURE = (b"x-request-id", b"retry-after")


class Relay(Placement):
    """Serves one request for a client connection.

    A worker's end is answered with a second try as long as no worker has read the request, then with a status until a
    byte of the answer has gone to the client; after it, with an error event in a stream of events, or by cutting the
    connection. In the end, and only once, the client is told by `exchange_ended` or `cut`, unless it has left.
    """

    __slots__ = (
        "_body",
        "_client",
        "_connection",
        "_first_byte_s",
        "_first_bytes",
        "_has_begun",
        "_is_framed",
        "_keep_alive",
        "_sent_at",
        "_sent_bytes",
        "_status",
    )

    def __init__(self, request: Request, table: RoutingTable, traffic: Traffic) -> None:
        super().__init__(request, table, traffic)
        self._connection: WorkerConnection | None = None
        self._body: ResponseBody | None = None
        self._first_bytes = b""  # the head of the answer, until it leaves
        self._status = 0
        self._is_framed = False  # the answer's end is known without the end of the connection
        self._keep_alive = False
        self._sent_at = 0.0  # the worker has it since then
        self._has_begun = False  # the client has got a byte
        self._first_byte_s: float | None = None
        self._sent_bytes = 0  # of the answer's body, to the client

    # ---- to the worker ------------------------------------------------------------------------------------

    def start(self, client: ClientConnection) -> None:
        self._client = client
        self._traffic.in_flight += 1
        self._traffic.requests += 1
        self._place()

    def connected(self, connection: WorkerConnection) -> None:
        if self._is_over:
            connection.close()
            return
        self._connection = connection
        self._was_sent, self._sent_at = True, time.monotonic()
        connection.send(self, *self._request.to_worker())

    # ---- from the worker ----------------------------------------------------------------------------------

    def answer_received(self, head: ResponseHead, body: bytes) -> None:
        worker = self._worker
        assert worker is not None
        self._connection = None
        if head.status >= 400 and self._is_refused(head, body):
            return
        if head.is_event_stream and _NOTHING_SAID.match(body):
            self._unanswered()
            return
        if worker.failures:
            worker.forgive()
        worker.served += 1
        request, client, keep_alive = self._request, self._client, self._request.keep_alive
        client.write(head.encode_whole(body, client.own_lines(request, keep_alive)))
        self._end(head.status, body, is_first_byte=True)
        client.exchange_ended(keep_alive=keep_alive)

    def head_received(self, head: ResponseHead) -> None:
        if head.status >= 400 and self._is_refused(head):
            return
        self._status = head.status
        self._body, framing = body_of(head, is_http10=self._request.is_http10)
        self._is_framed = framing == CHUNKED or (head.has_length and not head.is_event_stream)
        self._keep_alive = self._request.keep_alive and self._is_framed
        self._first_bytes = head.encode(framing, self._client.own_lines(self._request, self._keep_alive))

    def body_received(self, piece: Data) -> None:
        assert self._body is not None
        if data := self._body.feed(piece):
            if self._has_begun:
                self._client.write(data)
            elif type(self._body) is EventBody and _NOTHING_SAID.match(data):
                self._unanswered()
                return
            else:
                self._begin(data)
            self._sent_bytes += len(data)

    def _unanswered(self) -> None:
        """vLLM ends the stream of a request that is aborted before its first token as if it had been answered."""
        self._abandon()
        if not self._retry():
            self._refuse(ABORTED)

    def response_completed(self) -> None:
        assert self._body is not None
        assert self._worker is not None
        self._connection = None
        self._worker.served += 1
        rest = self._body.finish()
        if self._status in _LACKING and not self._has_begun and self._is_lacking(b"".join(rest)):
            return
        if not self._has_begun:
            self._begin(*rest)
        elif rest:
            self._client.write_all(rest)
        self._sent_bytes += sum(map(len, rest))
        self._end(self._status, self._body.tail())
        self._client.exchange_ended(keep_alive=self._keep_alive)

    def connection_failed(self, connection: WorkerConnection | None) -> None:
        worker = self._worker
        if self._is_over or worker is None:
            return
        self._connection = None
        if connection is not None and connection.was_refused and not worker.is_dead and not self._was_refused:
            # It ended between two requests, or its process has: a fresh connection tells which.
            self._was_refused, self._was_sent = True, False
            worker.connect(self)
            return
        if connection is not None:
            self._was_sent = not connection.was_refused
            worker.note_failure(f"{worker.instance.name}: closed a connection before its answer", is_lost=True)
        self._traffic.fault(worker.instance.name)
        # What a worker has read may be what it died of: it is not sent to another one.
        if self._was_sent or not (self._retry() or self._hold()):
            self._traffic.lose(self._model_name)
            self._fail(WORKER_LOST if self._was_sent else WORKER_UNREACHED)

    def _is_lacking(self, body: bytes) -> bool:
        """The engine, or this model on it, has no such route, and says so in its framework's shape."""
        if body not in _LACKS:
            return False
        path = self._request.path.decode("latin-1")
        words = f"{path}: the engine does not offer this for model '{self._model_name}'. See docs/front.md."
        self._refuse(Failure(404, "not_found", words))
        return True

    def _is_refused(self, head: ResponseHead, body: bytes = b"") -> bool:
        """True: this answer is not for the client, who has been given, or will be given, another one."""
        worker = self._worker
        assert worker is not None
        if head.status < 500 or head.status == _NOT_IMPLEMENTED:
            return self._is_for_another(head) or self._is_lacking(body)
        name = worker.instance.name
        self._abandon()
        if head.status == _BUSY:  # its own queue is full: no fault of it, and another one may have room
            worker.rest()
            self._was_sent = False
            if not self._retry():
                self._refuse(engine_busy(self._model_name, head.lines(_KEPT_OF_A_FAILURE), self._table.retry_after_s))
            return True
        worker.note_failure(f"{name}: answered {head.status}")
        self._traffic.fault(name)
        # A 500 is about this request: another worker would answer the same. Any other may be about the worker.
        if head.status == _FAILED or not self._retry():
            self._refuse(engine_error(head.status, head.lines(_KEPT_OF_A_FAILURE)))
        return True

    # ---- from the client ----------------------------------------------------------------------------------

    def pause(self) -> None:
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        if self._connection is not None:
            self._connection.resume()

    def client_left(self) -> None:
        self._traffic.leave(self._model_name)
        self._abandon()
        self._end(499)

    def end(self, failure: Failure) -> None:
        """Time is up: answer honestly and now."""
        self._abandon()
        self._fail(failure)

    def look_for_answer(self, limit_s: float, now: float) -> None:
        worker = self._worker
        if self._is_over or self._has_begun or worker is None or self._connection is None:
            return
        if now - self._sent_at < limit_s:
            return
        self._abandon()
        worker.note_failure(f"{worker.instance.name}: gave no byte of an answer within {limit_s:g} s")
        self._traffic.fault(worker.instance.name)
        self._refuse(answer_timeout(self._model_name, limit_s))

    # ---- the end ------------------------------------------------------------------------------------------

    def _begin(self, *parts: Data) -> None:
        self._has_begun = True
        if self._worker is not None and self._worker.failures:
            self._worker.forgive()
        self._client.write_all((self._first_bytes, *parts))
        self._first_bytes = b""
        self._first_byte_s = time.monotonic() - self.started_at

    def _abandon(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.detach()

    def _fail(self, failure: Failure) -> None:
        if self._has_begun:
            self._cut(failure)
        else:
            self._refuse(failure)

    def _refuse(self, failure: Failure) -> None:
        self._end(failure.status)
        self._client.refuse(self._request, failure, self._model_name)
        self._client.exchange_ended(keep_alive=self._request.keep_alive and not failure.closes)

    def _cut(self, failure: Failure) -> None:
        assert self._body is not None
        last = self._body.cut(failure.events(self._request.dialect))
        assert self._worker is not None
        self._traffic.cut_off(failure.code, self._model_name, self._worker.instance.name)
        self._end(self._status)
        if last is None:
            self._client.cut(is_framed=self._is_framed)
        else:
            self._client.write(last)
            self._client.exchange_ended(keep_alive=False)

    def _end(self, status: int, answer: bytes = b"", *, is_first_byte: bool = False) -> None:
        """``answer`` is the end of what a worker said, or all of it where that leaves only now: ``is_first_byte``."""
        self._is_over = True
        request, model, worker, traffic = self._request, self._model, self._worker, self._traffic
        model_name, instance = "" if model is None else model.name, "" if worker is None else worker.instance.name
        duration_s, first_byte_s, sent = time.monotonic() - self.started_at, self._first_byte_s, self._sent_bytes
        if is_first_byte:
            first_byte_s, sent = duration_s, len(answer)
        route = "" if request.route is None else request.route.name
        key, received, tail = request.key_name, len(request.body), answer[-TAIL_BYTES:]
        # As the fields of ``traffic.Ended``.
        ended = (model_name, route, instance, key, status, duration_s, first_byte_s, received, sent, tail)
        traffic.ended.append(ended)
        if len(traffic.ended) >= ENOUGH:
            traffic.add_up()
        self._leave()
        traffic.in_flight -= 1

    @property
    def _model_name(self) -> str:
        return "" if self._model is None else self._model.name
