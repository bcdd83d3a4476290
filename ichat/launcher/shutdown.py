"""The order in which we leave."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ichat.config.schema import Timeouts
from ichat.errors import ExitCode
from ichat.launcher.process import Exit

log = logging.getLogger(__name__)

#: The front ends what is left with error frames so long before its deadline.
_FRAMES_S = 1.0
#: A front that says nothing so long after its deadline says nothing any more.
_LATE_S = 0.2
#: After the deadline: what is still there is killed, so that we have left well before three seconds are over.
_INSIST_S = 1.0
#: A gateway that answers has stopped choosing us by then, and is given so long even where nobody lingers.
_WITHDRAW_S = 1.0
#: When nothing can finish what the front holds, or nobody wants to wait for it.
_SHORT_S = 0.5
#: After the deadline: what SIGKILL does not end (it hangs in the kernel) is left behind.
_GONE_S = 2.0


class DrainsFront(Protocol):
    """What the shutdown asks of the front."""

    drained: asyncio.Future[int]

    @property
    def lost(self) -> int:
        """Requests that ended with a front process since the withdrawal."""

    def withdraw(self) -> None: ...

    def drain(self, deadline: float) -> None: ...


class Stoppable(Protocol):
    """What the shutdown asks of a supervisor."""

    @property
    def is_serving(self) -> bool: ...

    def expect_end(self) -> None: ...

    async def stop(self, limit_s: float) -> Exit | None: ...


class Withdraws(Protocol):
    """What the shutdown asks of a registration with a gateway."""

    async def withdraw(self, limit_s: float) -> None:
        """Until the gateway has stopped choosing us; never longer than the limit, never an error."""


@dataclass(frozen=True)
class Leaving:
    """Who leaves, and what a second signal tells."""

    front: DrainsFront
    front_process: Stoppable
    workers: Sequence[Stoppable]
    is_ready: bool  # somebody may still be sending requests our way
    hurry: asyncio.Event  # set by a second signal: the deadline is now
    gateway: Withdraws | None = None
    must_end_by: Callable[[float], None] = lambda _deadline: None  # when nothing is waited for any more


async def shut_down(leaving: Leaving, timeouts: Timeouts) -> ExitCode:
    """Leave in the only order that loses no request.

    1. withdraw: readiness is red, the gateway stops choosing us, requests are still served
    2. linger:   requests that routers had already sent our way still arrive; skipped when we are not ready
    3. drain:    the front accepts nothing new and finishes what it holds
    4. stop:     the workers free their engines; nothing is left of them. One that loads has nothing to finish
                 and is stopped at once.
    5. the front goes last: until then it tells every client why it is refused

    The steps share one deadline, ``drain_s`` from now. What has not finished a second before is ended with an error,
    what is there a second after is killed. A second signal means: the deadline is now. DRAIN_ABORTED when a request
    was cut off since the withdrawal, by whatever it was, or may have been.
    """
    began = _now()
    is_serving = any(worker.is_serving for worker in leaving.workers)
    deadline = began + (timeouts.drain_s if is_serving else _FRAMES_S + _SHORT_S)
    leaving.must_end_by(deadline + _GONE_S)
    leaving.front.withdraw()
    loading = [worker for worker in leaving.workers if not worker.is_serving]
    early = asyncio.gather(*(worker.stop(timeouts.stop_s) for worker in loading))
    for worker in leaving.workers:
        worker.expect_end()
    linger_s = min(timeouts.linger_s, timeouts.drain_s) if leaving.is_ready else 0.0
    if leaving.gateway is not None:
        await _unless_hurried(
            leaving.hurry, leaving.gateway.withdraw(min(max(linger_s, _WITHDRAW_S), timeouts.drain_s))
        )
    await _unless_hurried(leaving.hurry, asyncio.sleep(began + linger_s - _now()))
    is_complete = await _drain(leaving, deadline)
    exits = await _stop_workers(leaving, timeouts, deadline)
    # Whoever loads is not waited for: nobody is served by it, and three seconds are soon over.
    leaving.front_process.expect_end()
    await asyncio.gather(early, leaving.front_process.stop(_SHORT_S))
    was_cut_off = any(one is not None and one.code == ExitCode.DRAIN_ABORTED for one in exits)
    return ExitCode.OK if is_complete and not was_cut_off else ExitCode.DRAIN_ABORTED


async def _unless_hurried(hurry: asyncio.Event, waiting: Coroutine[Any, Any, None]) -> None:
    task, hurried = asyncio.ensure_future(waiting), asyncio.ensure_future(hurry.wait())
    await asyncio.wait({task, hurried}, return_when=asyncio.FIRST_COMPLETED)
    for one in (task, hurried):
        one.cancel()
    await asyncio.wait({task, hurried})


async def _drain(leaving: Leaving, deadline: float) -> bool:
    """Whether every request had its own end.

    The front counts, also for its workers: all of their requests came through it. So the workers can be stopped
    afterwards in whatever way without that a request is lost or its loss overlooked.
    """
    front = leaving.front
    if not leaving.front_process.is_serving:  # it holds nothing; one before it may have
        return _has_lost_none(front.lost)
    front.drain(deadline)
    hurry = asyncio.ensure_future(leaving.hurry.wait())
    try:
        await _wait({front.drained, hurry}, deadline + _LATE_S)
        is_hurried = leaving.hurry.is_set()
        if not front.drained.done() and is_hurried:
            now = _now()
            front.drain(min(deadline, now + _FRAMES_S))
            await _wait({front.drained}, min(deadline, now + _FRAMES_S) + _LATE_S)
    finally:
        hurry.cancel()
    if not front.drained.done():
        log.error("front: has not drained in time, going on")
        return False
    # Whoever is hurried leaves before routers have noticed: nobody knows what that has cost.
    return _has_lost_none(front.drained.result()) and not is_hurried


def _has_lost_none(aborted: int) -> bool:
    if aborted:
        log.error("shutdown: requests were cut off aborted=%d", aborted)
    return not aborted


async def _stop_workers(leaving: Leaving, timeouts: Timeouts, deadline: float) -> list[Exit | None]:
    workers = [worker for worker in leaving.workers if worker.is_serving]
    limit_s = min(timeouts.stop_s, max(0.0, deadline + _INSIST_S - _now()))
    stopping = asyncio.ensure_future(asyncio.gather(*(worker.stop(limit_s) for worker in workers)))
    hurry = asyncio.ensure_future(leaving.hurry.wait())
    await _wait({stopping, hurry}, deadline + timeouts.stop_s + _INSIST_S)
    if not stopping.done():
        await asyncio.gather(*(worker.stop(_SHORT_S) for worker in workers))
    hurry.cancel()
    return list(await stopping)


async def _wait(futures: set[asyncio.Future[Any]], until: float) -> None:
    """For the first of them, or the time; none is cancelled but waits of our own."""
    await asyncio.wait(futures, timeout=max(0.0, until - _now()), return_when=asyncio.FIRST_COMPLETED)


def _now() -> float:
    """The loop's clock is that of ``time.monotonic()``, which the front reads the deadline on."""
    return asyncio.get_running_loop().time()
