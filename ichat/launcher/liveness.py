"""Whether a child's event loop still turns: a stopped or deadlocked process says nothing and does not die."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from ichat.config.schema import Timeouts
from ichat.ipc.messages import Ping
from ichat.system.activity import Activity, Watch

#: Waiting is counted in own turns of this length: if the whole machine pauses, that is one turn and nobody's hang.
_TURN_S = 0.5
#: A loop of which nothing was seen for so long does nothing, whatever else the machine has to do.
_QUIET_S = 2.0


class Doubt(Protocol):
    """Who is told what the answers, or their absence, mean."""

    def suspect(self) -> None:
        """No answer yet: nothing should rely on the child."""

    def clear(self) -> None:
        """It answered after all."""


class Liveness:
    """Asks one child every ``probe_every_s``; one question is outstanding at most.

    ``activity`` tells what the thread of its loop does. A loop that computes (SGLang tokenizes there, 1.5 s for a
    megabyte), or that waits for a core, does not answer in time and does not hang. A child that is stopped (state T) at
    two looks in a row is in doubt at once, whether it owes an answer or not.
    """

    def __init__(
        self, send: Callable[[Ping], None], doubt: Doubt, timeouts: Timeouts, activity: Callable[[], Activity]
    ) -> None:
        self._send, self._doubt, self._timeouts, self._activity = send, doubt, timeouts, activity
        self._number = 0
        self._answered = asyncio.Event()

    def answer(self, number: int) -> None:
        if number == self._number:
            self._answered.set()

    async def watch(self) -> None:
        """Returns when the child hangs: no answer within ``probe_limit_s``, or ``busy_limit_s`` while it is at work."""
        suspect_s = min(self._timeouts.probe_suspect_s, self._timeouts.probe_limit_s)
        while True:
            self._number += 1
            self._answered.clear()
            self._send(Ping(self._number))
            watch = Watch(self._activity())
            if not await self._answers_within(suspect_s, watch, unless_stopped=True):
                self._doubt.suspect()
                if not await self._answers_within(self._timeouts.probe_limit_s - suspect_s, watch):
                    more_s = self._timeouts.busy_limit_s - self._timeouts.probe_limit_s
                    if not await self._answers_within(more_s, watch, while_at_work=True):
                        return
                self._doubt.clear()
            await self._rest()

    async def _rest(self) -> None:
        """Until the next question; a child that is stopped meanwhile is asked at once."""
        rest_s, was_stopped = self._timeouts.probe_every_s, False
        while rest_s > 0:
            turn_s = min(_TURN_S, rest_s)
            await asyncio.sleep(turn_s)
            rest_s -= turn_s
            is_stopped = self._activity().is_stopped
            if is_stopped and was_stopped:
                return
            was_stopped = is_stopped

    async def _answers_within(
        self, limit_s: float, watch: Watch, *, unless_stopped: bool = False, while_at_work: bool = False
    ) -> bool:
        was_stopped = False
        while limit_s > 0 and not self._answered.is_set():
            is_stopped = self._activity().is_stopped
            if while_at_work and (watch.quiet_s >= _QUIET_S or is_stopped):
                break
            if unless_stopped and is_stopped and was_stopped:
                break
            was_stopped = is_stopped
            turn_s = min(_TURN_S, limit_s)
            limit_s -= turn_s
            try:
                async with asyncio.timeout(turn_s):
                    await self._answered.wait()
            except TimeoutError:
                watch.look(self._activity(), turn_s)
        return self._answered.is_set()
