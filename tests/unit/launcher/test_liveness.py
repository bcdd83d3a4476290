"""Whether a child's loop turns, as its launcher sees it (in virtual time)."""

from __future__ import annotations

import asyncio

import pytest

from ichat.config.schema import Timeouts
from ichat.ipc.messages import Ping
from ichat.launcher.liveness import Liveness
from ichat.system.activity import Activity

pytestmark = pytest.mark.looptime
TIMEOUTS = Timeouts()


class Child:
    """It answers at once, after ``answers_in_s`` or never (None), and shows what its thread does."""

    def __init__(self, *, cores: float = 0.0, queued: float = 0.0) -> None:
        self.answers_in_s: float | None = 0.0
        self.cores, self.queued, self.is_stopped = cores, queued, False
        self.heard: list[tuple[float, str]] = []
        self.liveness = Liveness(self._ask, self, TIMEOUTS, self._activity)

    def _ask(self, ping: Ping) -> None:
        if not self.is_stopped and self.answers_in_s is not None:
            asyncio.get_running_loop().call_later(self.answers_in_s, self.liveness.answer, ping.number)

    def _activity(self) -> Activity:
        now = asyncio.get_running_loop().time()
        return Activity(now * self.cores, now * self.queued, is_stopped=self.is_stopped)

    def suspect(self) -> None:
        self.heard.append((asyncio.get_running_loop().time(), "suspect"))

    def clear(self) -> None:
        self.heard.append((asyncio.get_running_loop().time(), "clear"))


async def watched_for(child: Child, seconds: float) -> float | None:
    """When it was given up; None: it was not, for so long."""
    try:
        await asyncio.wait_for(child.liveness.watch(), seconds)
    except TimeoutError:
        return None
    return asyncio.get_running_loop().time()


async def test_a_loop_that_answers_is_left_in_peace(looptime: object) -> None:
    child = Child()
    assert await watched_for(child, 300) is None
    assert child.heard == []


async def test_a_silent_loop_is_in_doubt_after_3_s_and_given_up_after_10(looptime: object) -> None:
    child = Child()
    child.answers_in_s = None
    assert await watched_for(child, 300) == 10
    assert child.heard == [(3, "suspect")]


@pytest.mark.parametrize(("cores", "queued"), [(1.0, 0.0), (0.01, 0.9)])
async def test_a_loop_that_computes_or_waits_for_a_core_is_not_given_up(
    looptime: object, cores: float, queued: float
) -> None:
    """A prompt of many megabytes, on a good machine or a starved one."""
    child = Child(cores=cores, queued=queued)
    child.answers_in_s = 120
    assert await watched_for(child, 124) is None
    assert child.heard == [(3, "suspect"), (120, "clear")]


async def test_a_loop_that_computes_for_ever_is_given_up_after_busy_limit_s(looptime: object) -> None:
    child = Child(cores=1.0)
    child.answers_in_s = None
    assert await watched_for(child, 2000) == TIMEOUTS.busy_limit_s


@pytest.mark.parametrize("at", [0.2, 2.3, 4.9, 5.1])
async def test_a_stopped_child_is_in_doubt_within_two_looks_whenever_it_is_stopped(looptime: object, at: float) -> None:
    child = Child(cores=1.0)
    asyncio.get_running_loop().call_later(at, setattr, child, "is_stopped", True)
    ended = await watched_for(child, 300)
    assert child.heard[0][1] == "suspect"
    assert child.heard[0][0] - at <= 2
    assert ended is not None
    assert ended - at <= 13


async def test_an_instant_in_state_t_is_none_to_wonder_about(looptime: object) -> None:
    child, loop = Child(), asyncio.get_running_loop()
    loop.call_later(1.9, setattr, child, "is_stopped", True)
    loop.call_later(2.1, setattr, child, "is_stopped", False)
    assert await watched_for(child, 60) is None
    assert child.heard == []


async def test_a_child_that_goes_on_is_trusted_when_it_answers(looptime: object) -> None:
    child, loop = Child(), asyncio.get_running_loop()
    loop.call_later(1.9, setattr, child, "is_stopped", True)
    loop.call_later(4.0, setattr, child, "is_stopped", False)
    loop.call_later(4.1, lambda: child.liveness.answer(child.liveness._number))
    assert await watched_for(child, 60) is None
    assert [what for _, what in child.heard] == ["suspect", "clear"]
