"""One incarnation of an instance as the front knows it: its load, its record, its open connections."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from ichat.front.known_heads import KnownHeads
from ichat.front.response_head import ResponseHead
from ichat.front.worker_connection import ResponseReceiver, WorkerConnection
from ichat.ipc import messages

if TYPE_CHECKING:
    from collections.abc import Callable

    from ichat.config.schema import Timeouts
    from ichat.front.request import Request

_log = logging.getLogger(__name__)

#: After the first failure, doubled by each further one: recovered, it is used again within a second.
_FIRST_REST_S = 0.1
_LONGEST_REST_S = 0.8
_BACKLOG_RETRY_S = 0.005
#: A worker's death fails all of its requests at once: one message tells it.
_FAULTS_APART_S = 0.1
#: Their date makes them new each second.
_KNOWN_HEADS = 32


class Worker:
    """Takes requests until it is retired; hands out connections, the most recently used one first.

    A retired worker keeps the connections that carry a request; the launcher is told when the last of these has
    ended. ``end`` is for one that is known to be dead. ``failures`` are those since its last success; ``probe`` is
    the request that was sent to find out whether they go on. ``prompts`` are those that it was the first to get.
    """

    __slots__ = (
        "_connecting",
        "_idle",
        "_open",
        "_report",
        "_reported_at",
        "_timeouts",
        "failures",
        "heads",
        "in_flight",
        "instance",
        "is_dead",
        "is_retired",
        "probe",
        "prompts",
        "rests_until",
        "served",
    )

    def __init__(
        self, instance: messages.Instance, timeouts: Timeouts, report: Callable[[messages.Message], None]
    ) -> None:
        self.instance, self._timeouts, self._report = instance, timeouts, report
        self.heads: KnownHeads[ResponseHead] = KnownHeads(_KNOWN_HEADS)
        self.in_flight = 0
        self.served = 0
        self.prompts = 0
        self.is_retired = self.is_dead = False
        self.rests_until = 0.0
        self.failures = 0
        self.probe: Request | None = None
        self._reported_at = 0.0
        self._idle: list[WorkerConnection] = []
        self._open: set[WorkerConnection] = set()
        self._connecting: set[asyncio.Task[None]] = set()

    # ---- connections --------------------------------------------------------------------------------------

    def idle_connection(self) -> WorkerConnection | None:
        idle = self._idle
        while idle:
            connection = idle.pop()
            if connection.is_usable:
                return connection
        return None

    def connect(self, receiver: ResponseReceiver) -> None:
        """Open a connection; the receiver is told by `connected` or `connection_failed`."""
        task = asyncio.get_running_loop().create_task(self._connect(receiver), name=f"connect to {self.instance.name}")
        self._connecting.add(task)
        task.add_done_callback(lambda task: self._ended_connecting(task, receiver))

    def _ended_connecting(self, task: asyncio.Task[None], receiver: ResponseReceiver) -> None:
        """`end` cancels it, perhaps before it has begun: who waits for this connection must not wait for ever."""
        self._connecting.discard(task)
        if task.cancelled() and self.is_dead:
            receiver.connection_failed(None)

    async def _connect(self, receiver: ResponseReceiver) -> None:
        try:
            connection = await self._open_connection()
        except (OSError, TimeoutError) as error:
            words = f"{self.instance.name}: cannot be reached ({error.__class__.__name__}: {error})"
            self.note_failure(words, is_lost=True)
            receiver.connection_failed(None)
            return
        receiver.connected(connection)

    async def _open_connection(self) -> WorkerConnection:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._timeouts.connect_s):
            while True:
                try:
                    _, connection = await loop.create_unix_connection(
                        lambda: WorkerConnection(self), self.instance.socket_path
                    )
                except BlockingIOError:  # its backlog is full: it is busy, not gone
                    await asyncio.sleep(_BACKLOG_RETRY_S)
                else:
                    return connection

    def opened(self, connection: WorkerConnection) -> None:
        self._open.add(connection)

    def closed(self, connection: WorkerConnection) -> None:
        self._open.discard(connection)
        if connection.idle_since:
            self._idle = [one for one in self._idle if one is not connection]

    def take_back(self, connection: WorkerConnection) -> None:
        """A connection whose response is complete and that can carry another."""
        if self.is_retired:
            connection.close()
        else:
            connection.idle_since = time.monotonic()
            self._idle.append(connection)

    def close_idle_since(self, moment: float) -> None:
        while self._idle and self._idle[0].idle_since <= moment:
            self._idle.pop(0).close()

    def retire(self) -> None:
        """Send it nothing more; what it is busy with goes on."""
        if self.is_retired:
            return
        self.is_retired = True
        self._close_idle()
        if not self.in_flight:
            self.drained()

    def drained(self) -> None:
        """It is retired, and its last request has ended."""
        if not self.is_dead:
            self._report(messages.WorkerDrained(self.instance.name, self.instance.incarnation))

    def end(self) -> None:
        """It is dead: end what still waits for it, though its connections look alive."""
        self.is_retired = self.is_dead = True
        self._close_idle()
        for task in self._connecting:
            task.cancel()
        for connection in list(self._open):
            connection.abort()

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop().close()

    # ---- its record ---------------------------------------------------------------------------------------

    def forgive(self) -> None:
        """It has answered: it is as good as any other again."""
        self.failures = 0
        self.rests_until = 0.0
        self.probe = None

    def begin_probe(self, request: Request, now: float) -> None:
        """This request finds out whether it still fails; until that is known, or another rest is over, no other."""
        self.probe = request
        self.rests_until = now + self._rest_s

    @property
    def _rest_s(self) -> float:
        return float(min(_FIRST_REST_S * 2 ** min(self.failures, 8), _LONGEST_REST_S))

    def rest(self) -> None:
        """Others are preferred for a moment, longer each time until it has answered a request."""
        self.rests_until = time.monotonic() + self._rest_s
        self.failures += 1

    def note_failure(self, words: str, *, is_lost: bool = False) -> None:
        """Let it rest a moment, where others can serve; tell the launcher if it seems gone."""
        now = time.monotonic()
        self.rest()
        _log.debug("%s", words)
        if is_lost and not self.is_retired and now - self._reported_at >= _FAULTS_APART_S:
            self._reported_at = now
            self._report(messages.WorkerFault(self.instance.name, self.instance.incarnation, words))
