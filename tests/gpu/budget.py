"""Time: so much for all of it, and a limit for each check that holds whatever the check waits for."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType


class OutOfTimeError(Exception):
    """A check was not done within its limit."""


class Budget:
    """So many seconds from now on, a part of which is kept for clearing up and for the report."""

    def __init__(self, total_s: float, kept_s: float = 20, now: Callable[[], float] = time.monotonic) -> None:
        self.total_s, self._now = total_s, now
        self._began = now()
        self._end = self._began + total_s - kept_s

    @property
    def left_s(self) -> float:
        return max(0.0, self._end - self._now())

    @property
    def spent_s(self) -> float:
        return self._now() - self._began

    def limit_for(self, wanted_s: float, at_least_s: float) -> float | None:
        """Seconds that a check may take; None: so little is left that it need not begin."""
        return min(wanted_s, self.left_s) if self.left_s >= at_least_s else None


@contextlib.contextmanager
def deadline(limit_s: float) -> Iterator[None]:
    """OutOfTimeError in the main thread after so long, out of any wait: a signal interrupts sleeps and sockets."""

    def expire(number: int, frame: FrameType | None) -> None:
        raise OutOfTimeError(f"not done within {limit_s:.0f} s")

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
