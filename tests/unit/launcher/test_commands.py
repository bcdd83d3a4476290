"""Commands to a worker, in virtual time: each of them has an answer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ichat.ipc.messages import Control, ControlDone
from ichat.launcher.commands import Commands, no_worker

pytestmark = pytest.mark.looptime


class Bench:
    def __init__(self) -> None:
        self.sent: list[Control] = []
        self.commands = Commands(self.sent.append)

    def ask(self, action: str = "sleep", limit_s: float = 10, **arguments: Any) -> asyncio.Task[ControlDone]:
        return asyncio.create_task(self.commands.ask(action, arguments, limit_s))

    def done(self, number: int) -> None:
        self.commands.answer(ControlDone(number, 200, {"ok": True}))


@pytest.fixture
async def bench() -> Bench:
    return Bench()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def code(done: ControlDone) -> str:
    return str(done.body["error"]["code"])


async def test_a_command_gets_the_workers_own_answer(bench: Bench) -> None:
    asking = bench.ask("sleep", level=2)
    await settle()
    assert bench.sent == [Control(1, "sleep", {"level": 2})]
    bench.done(1)
    assert await asking == ControlDone(1, 200, {"ok": True})


async def test_a_second_command_is_refused_while_the_first_is_at_work(bench: Bench) -> None:
    first = bench.ask("update_weights")
    await settle()
    second = await bench.ask("sleep")
    assert (second.status, code(second)) == (409, "busy")
    assert "update_weights is still at work" in second.body["error"]["message"]
    assert len(bench.sent) == 1
    bench.done(1)
    assert (await first).status == 200


async def test_commands_follow_each_other_with_numbers_of_their_own(bench: Bench) -> None:
    for number in (1, 2, 3):
        asking = bench.ask()
        await settle()
        bench.done(number)
        assert (await asking).number == number


async def test_a_command_out_of_time_keeps_the_next_one_out_until_it_is_done(bench: Bench, looptime: float) -> None:
    late = await bench.ask(limit_s=10)
    assert looptime == 12, "the worker itself is given the chance to say so"
    assert (late.status, code(late)) == (504, "control_timeout")
    assert (await bench.ask()).status == 409
    bench.done(1)
    asking = bench.ask()
    await settle()
    bench.done(2)
    assert (await asking).status == 200


async def test_an_answer_that_nobody_waits_for_is_ignored(bench: Bench) -> None:
    bench.done(1)
    asking = bench.ask()
    await settle()
    bench.done(7)
    await settle()
    assert not asking.done()
    bench.done(1)
    bench.done(1)
    assert (await asking).status == 200


async def test_a_worker_that_dies_over_a_command_is_told_at_once(bench: Bench, looptime: float) -> None:
    asking = bench.ask()
    await settle()
    bench.commands.fail_all("its worker was killed by SIGKILL")
    done = await asking
    assert looptime == 0
    assert (done.status, code(done)) == (502, "worker_lost")
    assert done.body["error"]["message"] == "sleep: its worker was killed by SIGKILL"


async def test_a_dead_worker_is_asked_nothing(bench: Bench) -> None:
    bench.commands.fail_all("its worker was killed by SIGKILL")
    bench.commands.fail_all("and something later")
    done = await bench.ask()
    assert (done.status, code(done)) == (503, "no_worker")
    assert "SIGKILL" in done.body["error"]["message"]
    assert bench.sent == []


async def test_an_instance_without_a_worker_says_so() -> None:
    done = await no_worker("its worker has not been started yet").ask("sleep", {}, 1)
    assert done.status == 503
    assert "not been started yet" in done.body["error"]["message"]


async def test_a_caller_that_leaves_does_not_end_the_command(bench: Bench) -> None:
    asking = bench.ask()
    await settle()
    asking.cancel()
    await settle()
    assert (await bench.ask()).status == 409
    bench.done(1)
    assert asking.cancelled()
