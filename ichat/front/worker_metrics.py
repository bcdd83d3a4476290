"""What one worker says about itself when it is asked for its metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ichat.front.response_body import Data
    from ichat.front.response_head import ResponseHead
    from ichat.front.worker import Worker
    from ichat.front.worker_connection import WorkerConnection

_ASK = b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n"
#: An engine's metrics are some hundred kilobytes; what is longer is left out.
_LIMIT_BYTES = 8 * 1024 * 1024


class WorkerMetrics:
    """Asks over the same connections as a relay does. ``text`` is None when there was no good answer.

    ``is_told`` is called once it is over, unless by `give_up`.
    """

    __slots__ = ("_connection", "_is_good", "_is_told", "_pieces", "_size", "_worker", "is_over", "text")

    def __init__(self, worker: Worker, is_told: Callable[[], None]) -> None:
        self._worker, self._is_told = worker, is_told
        self._connection: WorkerConnection | None = None
        self._pieces: list[Data] = []
        self._size = 0
        self._is_good = False  # the worker answers with metrics
        self.is_over = False
        self.text: bytes | None = None

    @property
    def instance(self) -> str:
        return self._worker.instance.name

    def ask(self) -> None:
        connection = self._worker.idle_connection()
        if connection is None:
            self._worker.connect(self)
        else:
            self.connected(connection)

    def give_up(self) -> None:
        """Harmless when it is over."""
        self.is_over = True
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.detach()

    # ---- from the worker ----------------------------------------------------------------------------------

    def connected(self, connection: WorkerConnection) -> None:
        if self.is_over:
            connection.close()
        else:
            self._connection = connection
            connection.send(self, _ASK, b"")

    def answer_received(self, head: ResponseHead, body: bytes) -> None:
        self.head_received(head)
        self._pieces.append(body)
        self.response_completed()

    def head_received(self, head: ResponseHead) -> None:
        self._is_good = head.status == 200

    def body_received(self, piece: Data) -> None:
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size > _LIMIT_BYTES:
            self._pieces.clear()
            self.give_up()
            self._is_told()

    def response_completed(self) -> None:
        self._connection = None
        if self._is_good:
            self.text = b"".join(self._pieces)
        self.is_over = True
        self._is_told()

    def connection_failed(self, connection: WorkerConnection | None) -> None:
        del connection
        if not self.is_over:
            self._connection = None
            self.is_over = True
            self._is_told()
