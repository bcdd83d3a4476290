"""Who gets the next request, and how one that fails is left out and found again. Held in volume on a real front."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable

import pytest

from ichat.config.schema import Timeouts
from ichat.front.balance import Balance
from ichat.front.request import Request
from ichat.front.traffic import ModelTraffic
from ichat.front.worker import Worker
from ichat.ipc import messages
from tests.unit.front.conftest import until
from tests.unit.front.raw_client import request
from tests.unit.front.running_front import FrontUnderTest, running_front
from tests.unit.front.scripted_worker import ScriptedWorker, Turn, answer_json, running_worker


def worker_of(name: str) -> Worker:
    return Worker(messages.Instance(name, "a", "/nowhere"), Timeouts(), lambda message: None)


def test_the_one_with_the_least_in_flight_is_next_and_of_equals_the_one_that_served_least() -> None:
    balance, workers = Balance(), [worker_of(name) for name in "abc"]
    workers[0].in_flight, workers[1].in_flight, workers[2].in_flight = 3, 1, 1
    workers[1].served, workers[2].served = 5, 4
    assert balance.pick(workers, Request(), ModelTraffic(), ()) is workers[2]
    assert balance.pick(workers, Request(), ModelTraffic(), (workers[2],)) is workers[1]
    assert balance.pick(workers, Request(), ModelTraffic(), workers) is None


def test_one_that_failed_rests_and_is_then_tried_by_a_single_request() -> None:
    balance, (good, bad) = Balance(), (worker_of("good"), worker_of("bad"))
    good.in_flight = 50
    bad.note_failure("no")
    assert balance.pick([good, bad], Request(), ModelTraffic(), ()) is good
    bad.rests_until = 0.0  # the rest is over
    probe = Request()
    assert balance.pick([good, bad], probe, ModelTraffic(), ()) is bad
    assert bad.probe is probe
    assert [balance.pick([good, bad], Request(), ModelTraffic(), ()) for _ in range(20)] == [good] * 20
    bad.forgive()
    assert balance.pick([good, bad], Request(), ModelTraffic(), ()) is bad


def test_a_second_try_finds_nothing_out() -> None:
    balance, (first, bad, good) = Balance(), (worker_of("first"), worker_of("bad"), worker_of("good"))
    bad.note_failure("no")
    bad.rests_until = 0.0
    good.in_flight = 50
    assert balance.pick([first, bad, good], Request(), ModelTraffic(), (first,)) is good
    assert balance.pick([first, bad], Request(), ModelTraffic(), (first,)) is bad
    assert bad.probe is None


def test_when_all_rest_it_is_as_if_none_did() -> None:
    balance, workers = Balance(), [worker_of("a"), worker_of("b")]
    for worker in workers:
        worker.note_failure("no")
    workers[0].in_flight = 1
    assert balance.pick(workers, Request(), ModelTraffic(), ()) is workers[1]


def test_a_rest_grows_but_never_beyond_a_second() -> None:
    worker = worker_of("a")
    rests = []
    for _ in range(100):
        worker.note_failure("no")
        rests.append(round(worker.rests_until - time.monotonic(), 2))
    assert rests[0] <= 0.1
    assert rests == sorted(rests)
    assert rests[-1] <= 0.8


def test_a_new_worker_is_not_flooded_because_the_others_have_served_much() -> None:
    balance, (old, new) = Balance(), (worker_of("old"), worker_of("new"))
    balance.change([], [old])
    old.served = 10_000
    balance.change([old], [old, new])
    picked = []
    for _ in range(20):
        picked.append(balance.pick([old, new], Request(), ModelTraffic(), ()))
        picked[-1].served += 1
    assert picked.count(new) == 10


# ---- in volume, through the front ----------------------------------------------------------------------------------


async def load(front: FrontUnderTest, clients: int, each: int, pause_s: float = 0.0) -> list[int]:
    """The statuses of a steady load."""

    async def one() -> list[int]:
        client = await front.connect()
        statuses = []
        for _ in range(each):
            await client.send(request())
            statuses.append((await client.response()).status)
            await asyncio.sleep(pause_s)
        client.close()
        return statuses

    return [status for statuses in await asyncio.gather(*(one() for _ in range(clients))) for status in statuses]


async def resetting(turn: Turn) -> None:
    turn.abort()


async def half_an_answer(turn: Turn) -> None:
    await turn.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{")
    turn.abort()


def answering(status: int) -> Callable[[Turn], Awaitable[None]]:
    async def script(turn: Turn) -> None:
        await turn.json(status, {"error": "no"})

    return script


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_thousands_of_requests_beside_a_worker_that_always_fails_all_succeed(
    worker: ScriptedWorker, status: int
) -> None:
    worker.script = answering(status)
    async with running_worker() as good, running_front(worker, good) as front:
        statuses = await load(front, clients=32, each=100)
        assert (len(statuses), set(statuses)) == (3200, {200})
        assert len(worker.seen) < 60


async def test_thousands_of_requests_beside_a_worker_that_ends_every_connection_unread_all_succeed(
    worker: ScriptedWorker,
) -> None:
    worker.slams = True
    async with running_worker() as good, running_front(worker, good) as front:
        statuses = await load(front, clients=32, each=100)
        assert (len(statuses), set(statuses)) == (3200, {200})


@pytest.mark.parametrize("script", [answering(500), resetting, half_an_answer])
async def test_a_worker_that_fails_over_what_it_has_read_costs_those_requests_and_is_soon_avoided(
    worker: ScriptedWorker, script: Callable[[Turn], Awaitable[None]]
) -> None:
    worker.script = script
    async with running_worker() as good, running_front(worker, good) as front:
        statuses = await load(front, clients=32, each=100)
        failed = [status for status in statuses if status != 200]
        assert len(failed) == len(worker.seen) < 60
        assert set(failed) <= {500, 502}


async def test_two_of_three_that_fail_are_found_out_and_then_cost_nobody_his_answer(worker: ScriptedWorker) -> None:
    """Who meets both at once before either is known has had his two tries."""
    worker.script = answering(503)
    async with running_worker() as bad, running_worker() as good, running_front(worker, bad, good) as front:
        bad.script = answering(502)
        found_out = await load(front, clients=16, each=5)
        assert sum(status != 200 for status in found_out) <= 16
        statuses = await load(front, clients=16, each=150, pause_s=0.001)
        assert (len(statuses), set(statuses)) == (2400, {200})
        assert len(worker.seen) + len(bad.seen) < 80


async def test_a_worker_that_begins_to_fail_under_load_costs_nobody_his_answer(worker: ScriptedWorker) -> None:
    """Also those that it has when it begins: more than the floor of the retry budget."""
    gate = asyncio.Event()

    async def later(turn: Turn) -> None:
        await gate.wait()
        await turn.json(502, {})

    async def later_too(turn: Turn) -> None:
        await gate.wait()
        await answer_json(turn)

    worker.script = later
    async with running_worker() as good, running_front(worker, good) as front:
        good.script = later_too
        loading = asyncio.create_task(load(front, clients=80, each=5))
        await until(lambda: len(worker.seen) >= 30, 5)
        gate.set()
        assert set(await loading) == {200}


async def test_little_traffic_beside_a_worker_that_always_fails_succeeds_too(worker: ScriptedWorker) -> None:
    """The budget is spent after ten retries; the single requests that try the worker out are not on it."""
    worker.script = answering(503)
    async with running_worker() as good, running_front(worker, good) as front:
        began = time.monotonic()
        statuses = []
        while time.monotonic() - began < 2.5:
            statuses.append((await front.ask(request())).status)
            await asyncio.sleep(0.08)
            # As if a long time had passed in the same way: what is earned does not last.
            front.front._traffic._retry_debt = 10.0
        assert set(statuses) == {200}
        assert len(worker.seen) >= 3


async def test_a_worker_that_recovers_is_used_again_within_a_second(worker: ScriptedWorker) -> None:
    worker.script = answering(502)
    async with running_worker() as good, running_front(worker, good) as front:
        assert set(await load(front, clients=8, each=100)) == {200}
        worker.script = answer_json
        before, began = len(worker.seen), time.monotonic()
        while len(worker.seen) < before + 5:
            assert time.monotonic() - began < 1.5
            await load(front, clients=4, each=2, pause_s=0.005)
        assert time.monotonic() - began < 1.0


@pytest.mark.parametrize("status", [400, 404, 413, 422, 429, 501])
async def test_what_is_the_clients_fault_never_opens_the_circuit(worker: ScriptedWorker, status: int) -> None:
    worker.script = answering(status)
    async with running_worker() as other, running_front(worker, other) as front:
        other.script = answering(status)
        assert set(await load(front, clients=8, each=50)) == {status}
        assert len(worker.seen) + len(other.seen) == 400
        assert 150 <= len(worker.seen) <= 250
        assert all(one.failures == 0 for one in front.front._table.workers)


async def test_when_every_worker_fails_retries_do_not_double_the_load(worker: ScriptedWorker) -> None:
    worker.script = answering(500)
    async with running_worker() as other, running_front(worker, other) as front:
        other.script = worker.script
        statuses = await load(front, clients=16, each=100)
        assert set(statuses) == {500}
        assert len(worker.seen) + len(other.seen) <= 1600 * 1.1 + 2 * 16 + 10


async def test_prefixes_stay_with_their_instance_through_the_whole_front(worker: ScriptedWorker) -> None:
    async with running_worker() as other, running_front(worker, other) as front:
        home: dict[int, ScriptedWorker] = {}
        stayed = 0
        client = await front.connect()
        for turn in range(600):
            number = turn * 7 % 12
            text = f"conversation {number} " * 60
            sizes = len(worker.seen), len(other.seen)
            body = json.dumps({"model": "demo", "messages": [{"role": "user", "content": f"{text} {turn}"}]}).encode()
            await client.send(request(body=body))
            assert (await client.response()).status == 200
            chosen = worker if len(worker.seen) > sizes[0] else other
            stayed += home.setdefault(number, chosen) is chosen
        client.close()
        assert stayed / 600 >= 0.95
        assert 0.4 <= len(worker.seen) / 600 <= 0.6
