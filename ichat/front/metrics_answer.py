"""`/metrics`: the front's own numbers, followed by those of the ready worker."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ichat.front.errors import Failure
from ichat.front.replies import Reply

if TYPE_CHECKING:
    from ichat.front.client_connection import ClientConnection
    from ichat.front.reception import Reception
    from ichat.front.request import Request
    from ichat.front.response_body import Data
    from ichat.front.response_head import ResponseHead
    from ichat.front.worker_connection import WorkerConnection

_CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
_ASK = b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n"
#: An engine's metrics are some hundred kilobytes at most; what is longer is left out.
_LIMIT_BYTES = 8 * 1024 * 1024


class MetricsAnswer:
    """Asks the worker over the same connections as a relay does. A worker that fails to answer is left out."""

    __slots__ = ("_client", "_connection", "_is_over", "_is_wanted", "_pieces", "_reception", "_request", "_timer")

    def __init__(self, request: Request, reception: Reception) -> None:
        self._request, self._reception = request, reception
        self._client: ClientConnection | None = None
        self._connection: WorkerConnection | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._pieces: list[Data] = []
        self._is_wanted = False  # the worker answered with metrics
        self._is_over = False

    def start(self, client: ClientConnection) -> None:
        self._client = client
        # Two expositions cannot simply follow each other: several workers will need labels of their own.
        workers = [worker for model in self._reception.table.models if model.is_ready for worker in model.workers]
        if len(workers) != 1:
            self._answer()
            return
        limit_s = self._reception.timeouts.connect_s
        self._timer = asyncio.get_running_loop().call_later(limit_s, self._give_up)
        connection = workers[0].idle_connection()
        if connection is None:
            workers[0].connect(self)
        else:
            self.connected(connection)

    # ---- from the worker ----------------------------------------------------------------------------------

    def connected(self, connection: WorkerConnection) -> None:
        if self._is_over:
            connection.close()
        else:
            self._connection = connection
            connection.send(self, _ASK, b"")

    def answer_received(self, head: ResponseHead, body: bytes) -> None:
        self._connection = None
        self.head_received(head)
        self.body_received(body)
        self._answer()

    def head_received(self, head: ResponseHead) -> None:
        self._is_wanted = head.status == 200

    def body_received(self, piece: Data) -> None:
        if self._is_wanted:
            self._pieces.append(piece)
            if sum(map(len, self._pieces)) > _LIMIT_BYTES:
                self._give_up()

    def response_completed(self) -> None:
        self._connection = None
        self._answer()

    def connection_failed(self, connection: WorkerConnection | None) -> None:
        del connection
        if not self._is_over:
            self._pieces.clear()
            self._connection = None
            self._answer()

    # ---- from the client ----------------------------------------------------------------------------------

    def pause(self) -> None:
        """The answer is written at once: there is nothing to hold back."""

    def resume(self) -> None:
        """See `pause`."""

    def client_left(self) -> None:
        self._stop()

    def end(self, failure: Failure) -> None:
        del failure
        self._give_up()

    # ---- the end ------------------------------------------------------------------------------------------

    def _give_up(self) -> None:
        self._pieces.clear()
        self._answer()

    def _answer(self) -> None:
        if self._is_over or self._client is None:
            return
        self._stop()
        body = b"".join((self._reception.render_metrics().encode(), *self._pieces))
        client, self._client = self._client, None
        client.reply(self._request, Reply(200, body, _CONTENT_TYPE))
        client.exchange_ended(keep_alive=self._request.keep_alive)

    def _stop(self) -> None:
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.detach()
