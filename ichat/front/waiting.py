"""The requests that wait for a model: first come, first served, a few in each turn of the loop."""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from ichat.front.errors import Failure

#: So many go on, or are refused, in one turn of the loop: the streams come in between.
_BATCH = 16


class Waiter(Protocol):
    """It leaves the line by itself when its client does. ``started_at`` is on the clock of ``time.monotonic()``."""

    started_at: float

    def admitted(self) -> None:
        """Its turn has come; it is no longer in the line."""

    def refused(self, failure: Failure) -> None:
        """It has waited in vain; it is no longer in the line."""


class WaitingLine:
    """``waiters``, in order, is there to be asked whether it is empty, and to be left by `pop(waiter, None)`."""

    __slots__ = ("_has_room", "_is_called", "waiters")

    def __init__(self, has_room: Callable[[], bool]) -> None:
        self._has_room = has_room
        self._is_called = False
        self.waiters: OrderedDict[Waiter, None] = OrderedDict()

    def join(self, waiter: Waiter) -> None:
        self.waiters[waiter] = None

    def return_to_head(self, waiter: Waiter) -> None:
        """Its turn had come, and came to nothing."""
        self.waiters[waiter] = None
        self.waiters.move_to_end(waiter, last=False)

    def call(self) -> None:
        """There may be room: those in front go on, beginning with the next turn of the loop."""
        if self.waiters and not self._is_called:
            self._is_called = True
            asyncio.get_running_loop().call_soon(self._admit)

    def _admit(self) -> None:
        self._is_called = False
        for _ in range(_BATCH):
            if not self.waiters or not self._has_room():
                return
            waiter, _ = self.waiters.popitem(last=False)
            waiter.admitted()
        self.call()

    def dismiss(self, is_due: Callable[[Waiter], bool], failure: Callable[[], Failure]) -> None:
        """Refuse those that are due, beginning now."""
        due = list(itertools.islice(filter(is_due, self.waiters), _BATCH))
        for waiter in due:
            self.waiters.pop(waiter, None)
            waiter.refused(failure())
        if len(due) == _BATCH:
            asyncio.get_running_loop().call_soon(self.dismiss, is_due, failure)
