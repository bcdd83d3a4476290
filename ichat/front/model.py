"""One model as the front sees it: its state in words, its workers, how much it takes, and who waits for it."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Collection
from typing import TYPE_CHECKING

from ichat.front.balance import Balance
from ichat.front.caps import Caps
from ichat.front.errors import Failure, queue_full
from ichat.front.waiting import Waiter, WaitingLine
from ichat.ipc import messages

if TYPE_CHECKING:
    from ichat.config.schema import Timeouts
    from ichat.front.request import Request
    from ichat.front.traffic import ModelTraffic
    from ichat.front.worker import Worker

_SECONDS_AT_END = re.compile(r", \d+ s$")
_HOPELESS = ("failed", "stopped")
#: Until the launcher says what has become of a worker that cannot be reached.
_PAUSE_S = 0.25


def share(limit: int, processes: int) -> int:
    """What one of several front processes may have of a limit."""
    return -(-limit // processes)


class Model:
    """A request may go to a worker of it while ``in_flight < capacity`` and nobody waits; else it joins the line.

    ``workers`` are those that may be sent requests; it is ready while there are any. ``in_flight`` counts the
    requests that a worker of it has, also one that leaves.
    """

    __slots__ = (
        "_balance",
        "_closed",
        "_line",
        "_pause",
        "_processes",
        "_queue_limit",
        "_timeouts",
        "capacity",
        "caps",
        "in_flight",
        "is_ready",
        "name",
        "route",
        "waiters",
        "workers",
    )

    def __init__(self, route: messages.RouteModel, timeouts: Timeouts, processes: int = 1) -> None:
        self.name = route.name
        self._timeouts, self._processes = timeouts, processes
        self._balance = Balance()
        self._line = WaitingLine(self._has_room)
        self.waiters = self._line.waiters
        self.in_flight = 0
        self.workers: list[Worker] = []
        self._closed: Failure | None = None
        self._pause: asyncio.TimerHandle | None = None
        self.change(route, [])

    def change(self, route: messages.RouteModel, workers: list[Worker]) -> None:
        """A request that is under way sees it too: its second try may go to a worker that is new."""
        if workers != self.workers:
            self._balance.change(self.workers, workers)
            self._end_pause()
        self.route, self.workers = route, workers
        self.is_ready = route.state == "ready" and bool(workers)
        self.caps = Caps.of(route)
        queued = route.limits.get("queued")
        self._queue_limit = math.inf if queued is None else share(queued, self._processes)
        self._set_capacity()
        self.dismiss()
        self._line.call()

    @property
    def names(self) -> list[str]:
        return self.route.served_names or [self.route.name]

    def pick(self, request: Request, traffic: ModelTraffic, tried: Collection[Worker]) -> Worker | None:
        """The worker that is to have this request; None: there is no other."""
        workers = self.workers
        if len(workers) == 1:
            return None if workers[0] in tried else workers[0]
        return self._balance.pick(workers, request, traffic, tried)

    # ---- who waits ----------------------------------------------------------------------------------------

    def join(self, waiter: Waiter) -> Failure | None:
        """Wait for room, or why that cannot be."""
        if not self.may_wait:
            return self.refusal()
        if len(self.waiters) >= self._queue_limit:
            words = "" if self.is_ready else f"{self.words()}; "
            return self._full(f"{words}{len(self.waiters)} requests wait for it already (limit_queued)")
        self._line.join(waiter)
        return None

    @property
    def may_wait(self) -> bool:
        return self.route.hold_s > 0 and self.route.state not in _HOPELESS and self._closed is None

    def return_to_head(self, waiter: Waiter) -> None:
        """Its worker could not be reached, and there is no other: wait a moment for the launcher's word."""
        if self.is_ready and self._pause is None:
            self._pause = asyncio.get_running_loop().call_later(_PAUSE_S, self._resume)
            self._set_capacity()
        self._line.return_to_head(waiter)

    def made_room(self) -> None:
        self._line.call()

    def dismiss(self) -> None:
        """Refuse those who have waited long enough. Called by the sweep, and whenever something has changed."""
        self._line.dismiss(self._is_due, self.refusal)

    def close(self, failure: Failure) -> None:
        """Nobody waits for it any more, because of this."""
        self._closed = failure
        self._end_pause()
        self.dismiss()

    def _has_room(self) -> bool:
        return self.in_flight < self.capacity

    def _is_due(self, waiter: Waiter) -> bool:
        return not self.may_wait or time.monotonic() - waiter.started_at >= self.route.hold_s

    def _set_capacity(self) -> None:
        limit = self.route.limits.get("concurrent")
        self.capacity = math.inf if limit is None else share(limit, self._processes)
        if not self.is_ready or self._pause is not None:
            self.capacity = 0

    def _resume(self) -> None:
        self._end_pause()
        self._set_capacity()
        self._line.call()

    def _end_pause(self) -> None:
        pause, self._pause = self._pause, None
        if pause is not None:
            pause.cancel()

    # ---- its words ----------------------------------------------------------------------------------------

    def words(self) -> str:
        """`loading demo: weights, 12 s`: one line for people."""
        route = self.route
        if self.is_ready:
            return f"ready: {self.name}"
        if route.state != "starting":
            return f"{route.state}: {self.name}" if route.state != "ready" else f"not ready: {self.name}"
        doing, colon, detail = route.words.partition(": ")
        if colon:  # `restarting: vLLM process 123 …; attempt 2 of 5 in 4 s`
            return f"{doing} {self.name}: {detail}"
        phase = _SECONDS_AT_END.sub("", route.words) or "starting"
        return f"loading {self.name}: {phase}, {max(0, int(time.time() - route.since))} s"

    def refusal(self) -> Failure:
        """Why it takes no request now, though it is known."""
        if self._closed is not None:
            return self._closed
        retry_after_s = self._timeouts.retry_after_s
        if not self.is_ready or self._pause is not None:
            code = {"starting": "model_loading", "draining": "model_draining"}.get(self.route.state, "no_worker")
            words = f"{self.name}: its worker cannot be reached" if self.is_ready else self.words()
            return Failure(503, code, f"{words}. Try again in {retry_after_s} s.", retry_after_s)
        limit, waited = self.route.limits.get("concurrent"), f"waited {self.route.hold_s:g} s"
        words = waited if self.route.hold_s else "may not wait (hold_s)"
        return self._full(f"{words} for one of its {limit} requests in flight to end (limit_concurrent)")

    def _full(self, words: str) -> Failure:
        return queue_full(self.name, words, self._timeouts.retry_after_s)
