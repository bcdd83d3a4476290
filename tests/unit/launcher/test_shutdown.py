"""The order in which we leave, in virtual time."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from ichat.config.schema import Timeouts
from ichat.errors import ExitCode
from ichat.launcher.process import Exit
from ichat.launcher.shutdown import Leaving, shut_down

pytestmark = pytest.mark.looptime
TIMEOUTS = Timeouts(linger_s=5, drain_s=30, stop_s=2)


class FakeFront:
    """Its requests end ``busy_s`` after the drain began; at the deadline − 1 s it cuts off what is left, if it can."""

    def __init__(self, diary: list[tuple[float, str]], *, busy_s: float = 0, in_flight: int = 1, is_deaf: bool = False):
        self._diary, self._busy_s, self._in_flight, self._is_deaf = diary, busy_s, in_flight, is_deaf
        self._loop = asyncio.get_running_loop()
        self.drained: asyncio.Future[int] = self._loop.create_future()
        self._began: float | None = None
        self.lost = 0

    def withdraw(self) -> None:
        self._note("withdraw")

    def drain(self, deadline: float) -> None:
        self._note(f"drain until {deadline:.1f}")
        if self._is_deaf:
            return
        self._began = self._loop.time() if self._began is None else self._began
        done_at = self._began + self._busy_s
        if done_at <= deadline - 1:
            self._loop.call_at(done_at, self._finish, 0)
        else:
            self._loop.call_at(deadline - 1, self._finish, self._in_flight)

    def _finish(self, aborted: int) -> None:
        if not self.drained.done():
            self._note(f"drained {aborted}")
            self.drained.set_result(aborted)

    def _note(self, what: str) -> None:
        self._diary.append((round(self._loop.time(), 2), what))


class FakeSupervisor:
    def __init__(self, diary: list[tuple[float, str]], name: str, *, leaves_in_s: float = 0, is_serving: bool = True):
        self._diary, self._name, self._leaves_in_s, self.is_serving = diary, name, leaves_in_s, is_serving
        self.code: int | None = 0
        self._gone = asyncio.Event()

    def expect_end(self) -> None:
        pass

    async def stop(self, limit_s: float) -> Exit | None:
        loop = asyncio.get_running_loop()
        self._diary.append((round(loop.time(), 2), f"stop {self._name}"))
        loop.call_later(min(limit_s, self._leaves_in_s), self._gone.set)
        await self._gone.wait()
        return Exit(self.code, None)


class FakeRegistration:
    """Its gateway has stopped choosing us after ``takes_s``."""

    def __init__(self, diary: list[tuple[float, str]], takes_s: float):
        self._diary, self._takes_s = diary, takes_s

    async def withdraw(self, limit_s: float) -> None:
        await asyncio.sleep(min(self._takes_s, limit_s))
        done = "withdrawn" if self._takes_s <= limit_s else "not withdrawn"
        self._diary.append((round(asyncio.get_running_loop().time(), 2), done))


class Bench:
    def __init__(
        self, *, is_ready: bool = True, leaves_in_s: float = 0, is_serving: bool = True, **front: object
    ) -> None:
        self.diary: list[tuple[float, str]] = []
        self.front = FakeFront(self.diary, **front)  # type: ignore[arg-type]
        self.front_process = FakeSupervisor(self.diary, "front")
        self.worker = FakeSupervisor(self.diary, "worker", leaves_in_s=leaves_in_s, is_serving=is_serving)
        self.hurry = asyncio.Event()
        self.leaving = Leaving(self.front, self.front_process, [self.worker], is_ready, self.hurry)

    def with_gateway(self, *, takes_s: float) -> Bench:
        self.leaving = dataclasses.replace(self.leaving, gateway=FakeRegistration(self.diary, takes_s))
        return self

    def hurry_at(self, moment_s: float) -> None:
        asyncio.get_running_loop().call_at(moment_s, self.hurry.set)

    async def leave(self) -> ExitCode:
        return await shut_down(self.leaving, TIMEOUTS)


async def test_the_order_is_withdraw_linger_drain_worker_front() -> None:
    bench = Bench(busy_s=3)
    assert await bench.leave() == 0
    assert bench.diary == [
        (0, "withdraw"),
        (5, "drain until 30.0"),
        (8, "drained 0"),
        (8, "stop worker"),
        (8, "stop front"),
    ]


async def test_without_anybody_ready_there_is_no_lingering(looptime: object) -> None:
    bench = Bench(is_ready=False)
    assert await bench.leave() == 0
    assert looptime == 0


async def test_a_worker_that_loads_is_stopped_at_once_and_cuts_nothing_off(looptime: object) -> None:
    bench = Bench(is_ready=False, is_serving=False, leaves_in_s=1)
    assert await bench.leave() == 0
    assert (0, "stop worker") in bench.diary
    assert looptime == 1


async def test_while_loading_even_a_deaf_front_cannot_hold_us_for_three_seconds(looptime: object) -> None:
    bench = Bench(is_ready=False, is_serving=False, leaves_in_s=1, is_deaf=True)
    await bench.leave()
    assert looptime < 2  # type: ignore[operator]


async def test_a_front_that_never_served_is_not_waited_for(looptime: object) -> None:
    bench = Bench(is_ready=False, is_serving=False, is_deaf=True)
    bench.front_process.is_serving = False
    assert await bench.leave() == 0
    assert looptime == 0


async def test_what_a_front_took_along_is_74_although_the_next_one_has_not_served_yet() -> None:
    bench = Bench()
    bench.front_process.is_serving, bench.front.lost = False, 2
    assert await bench.leave() == 74


async def test_what_the_deadline_cuts_off_is_74(looptime: object) -> None:
    bench = Bench(busy_s=3600)
    assert await bench.leave() == 74
    assert (29, "drained 1") in bench.diary
    assert looptime < 33  # type: ignore[operator]


async def test_all_steps_share_one_deadline_whatever_hangs(looptime: object) -> None:
    bench = Bench(is_deaf=True, leaves_in_s=3600)
    assert await bench.leave() == 74
    assert 30 < looptime < 33  # type: ignore[operator]


async def test_a_worker_that_cut_requests_off_itself_is_74() -> None:
    bench = Bench()
    bench.worker.code = 74
    assert await bench.leave() == 74


async def test_a_worker_that_had_to_be_killed_after_the_drain_lost_nothing(looptime: object) -> None:
    bench = Bench(leaves_in_s=3600)
    bench.worker.code = None
    assert await bench.leave() == 0
    assert looptime == 5 + 2


@pytest.mark.parametrize("moment_s", [1, 5.5, 20])
async def test_a_second_signal_means_the_deadline_is_now(moment_s: float, looptime: object) -> None:
    bench = Bench(busy_s=3600, leaves_in_s=3600)
    bench.hurry_at(moment_s)
    assert await bench.leave() == 74
    assert looptime <= moment_s + 2  # type: ignore[operator]
    assert [what for _, what in bench.diary if what.startswith("drain ")][-1] == f"drain until {moment_s + 1:.1f}"


async def test_a_second_signal_during_the_lingering_is_74_even_with_nothing_in_flight() -> None:
    bench = Bench()
    bench.hurry_at(1)
    assert await bench.leave() == 74


async def test_a_second_signal_after_the_drain_only_hastens_the_worker(looptime: object) -> None:
    bench = Bench(leaves_in_s=3600)
    bench.hurry_at(5.5)
    assert await bench.leave() == 0
    assert looptime == 6


async def test_a_drain_shorter_than_the_lingering_still_leaves_in_time(looptime: object) -> None:
    bench = Bench(busy_s=3600)
    await shut_down(bench.leaving, Timeouts(linger_s=5, drain_s=2))
    assert looptime < 2 + 3  # type: ignore[operator]


# ---- with a gateway -------------------------------------------------------------------------------------------


async def test_the_gateway_has_stopped_choosing_us_before_the_drain_begins() -> None:
    bench = Bench(busy_s=3).with_gateway(takes_s=0.25)
    assert await bench.leave() == 0
    assert bench.diary[:3] == [(0, "withdraw"), (0.25, "withdrawn"), (5, "drain until 30.0")]


async def test_a_gateway_that_does_not_answer_costs_the_lingering_and_no_more() -> None:
    bench = Bench().with_gateway(takes_s=3600)
    assert await bench.leave() == 0
    assert bench.diary[1:3] == [(5, "not withdrawn"), (5, "drain until 30.0")]


async def test_without_lingering_the_gateway_is_given_a_second() -> None:
    bench = Bench(is_ready=False).with_gateway(takes_s=3600)
    assert await bench.leave() == 0
    assert bench.diary[1:3] == [(1, "not withdrawn"), (1, "drain until 30.0")]


async def test_a_second_signal_does_not_wait_for_the_gateway() -> None:
    bench = Bench().with_gateway(takes_s=3600)
    bench.hurry_at(2)
    await bench.leave()
    assert bench.diary[1] == (2, "drain until 30.0")
