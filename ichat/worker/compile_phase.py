"""When compilers that come and go become a phase of the start, and when that is over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

#: Between two compilers an engine generates the next piece of code.
_PAUSE_S = 3.0


class CompilePhase:
    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._done = -1  # as told last
        self._seen_at: float | None = None  # None: nothing compiles

    def see(self, running: int, done: int) -> Literal["compiles", "is over"] | None:
        """What is to be told after a look at the processes; None: nothing new."""
        now = self._clock()
        if running or done > max(self._done, 0):
            is_news = self._seen_at is None or done != self._done
            self._seen_at, self._done = now, done
            return "compiles" if is_news else None
        if self._seen_at is not None and now - self._seen_at > _PAUSE_S:
            self._seen_at = None
            return "is over"
        return None
