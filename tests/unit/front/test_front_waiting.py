"""Requests wait for a model that is not ready, or that is full: in order, within bounds, and with an honest end."""

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ichat.ipc import messages
from tests.unit.front.conftest import until
from tests.unit.front.raw_client import Client, Response, request
from tests.unit.front.running_front import FrontUnderTest, running_front
from tests.unit.front.scripted_worker import ScriptedWorker, Turn, running_worker


def numbered(number: int) -> bytes:
    return request(body=json.dumps({"model": "demo", "number": number}).encode())


def numbers(worker: ScriptedWorker) -> list[int]:
    return [json.loads(seen.body)["number"] for seen in worker.seen]


def waiting(front: FrontUnderTest) -> int:
    return sum(len(model.waiters) for model in front.front._table.models)


async def queue_up(front: FrontUnderTest, count: int) -> list[Client]:
    """One after the other, so that their order is known."""
    before, clients = waiting(front), []
    for number in range(count):
        clients.append(await front.connect())
        await clients[-1].send(numbered(number))
        await until(lambda: waiting(front) == before + len(clients))
    return clients


async def answers(clients: list[Client]) -> list[Response]:
    return [await client.response() for client in clients]


class Doors:
    """Each request at the worker waits until one more is let out."""

    def __init__(self) -> None:
        self.inside = 0
        self.most_inside = 0
        self._tickets = asyncio.Semaphore(0)

    async def script(self, turn: Turn) -> None:
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        await self._tickets.acquire()
        self.inside -= 1
        await turn.json(200, {})

    def let_out(self, count: int) -> None:
        for _ in range(count):
            self._tickets.release()


@pytest.fixture
async def loading() -> AsyncIterator[FrontUnderTest]:
    """A front whose only model loads, and may be waited for."""
    async with running_front() as front:
        front.routes(state="starting", words="weights", hold_s=30, limits={"queued": 256})
        await front.settle()
        yield front


@pytest.mark.parametrize("state", ["starting", "draining", "ready"])
async def test_requests_wait_until_an_instance_is_ready(
    loading: FrontUnderTest, worker: ScriptedWorker, state: messages.State
) -> None:
    loading.routes(state=state, hold_s=30)
    await loading.settle()
    clients = await queue_up(loading, 100)
    loading.routes(worker, hold_s=30)
    assert {response.status for response in await answers(clients)} == {200}
    assert sorted(numbers(worker)) == list(range(100))


@pytest.mark.parametrize("size", [10, 3_000_000], ids=["short", "long"])
async def test_who_waited_under_a_name_that_has_gone_is_told_so(
    loading: FrontUnderTest, worker: ScriptedWorker, size: int
) -> None:
    """The worker knows only its new names, or does not look at them."""
    loading.routes(state="starting", hold_s=30, served_names=("demo", "old"))
    await loading.settle()
    clients = {name: await loading.connect() for name in ("old", "demo")}
    for number, (name, client) in enumerate(clients.items()):
        await client.send(request(body=json.dumps({"prompt": "x" * size, "model": name}).encode()))
        await until(lambda number=number: waiting(loading) == number + 1)
    loading.routes(worker, hold_s=30, served_names=("demo", "new"))
    gone, served = await clients["old"].response(), await clients["demo"].response()
    assert (gone.status, gone.code, served.status) == (404, "model_not_found", 200)
    assert [json.loads(seen.body)["model"] for seen in worker.seen] == ["demo"]


async def test_who_came_first_is_served_first(loading: FrontUnderTest, worker: ScriptedWorker) -> None:
    clients = await queue_up(loading, 50)
    loading.routes(worker, hold_s=30, limits={"concurrent": 1})
    assert {response.status for response in await answers(clients)} == {200}
    assert numbers(worker) == list(range(50))


async def test_those_who_waited_are_released_a_few_in_a_turn_of_the_loop(
    loading: FrontUnderTest, worker: ScriptedWorker
) -> None:
    """While hundreds are released, others get their turn in between."""
    clients = await queue_up(loading, 200)
    steps = []

    async def watch() -> None:
        while waiting(loading):
            steps.append(waiting(loading))
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    loading.routes(worker, hold_s=30)
    assert {response.status for response in await answers(clients)} == {200}
    await watching
    assert max(before - after for before, after in itertools.pairwise(steps)) <= 32


@pytest.mark.parametrize(
    ("state", "code"), [("starting", "model_loading"), ("draining", "model_draining"), ("ready", "no_worker")]
)
async def test_after_its_time_a_request_is_refused_with_the_phase(state: messages.State, code: str) -> None:
    async with running_front(retry_after_s=7) as front:
        front.routes(state=state, words="weights", hold_s=0.2)
        await front.settle()
        began = time.monotonic()
        response = await front.ask(request())
        assert 0.2 <= time.monotonic() - began < 1.0
        assert (response.status, response.code, response.header("retry-after")) == (503, code, "7")
        if state == "starting":
            assert "loading demo: weights, 0 s" in response.json()["error"]["message"]


@pytest.mark.parametrize("state", ["failed", "stopped"])
async def test_what_will_not_come_back_is_not_waited_for(loading: FrontUnderTest, state: messages.State) -> None:
    clients = await queue_up(loading, 40)
    loading.routes(state=state, words="no", hold_s=30)
    assert {(one.status, one.code) for one in await answers(clients)} == {(503, "no_worker")}
    assert (await loading.ask(request())).code == "no_worker"


async def test_beyond_the_bound_nobody_waits() -> None:
    async with running_front() as front:
        front.routes(state="starting", words="weights", hold_s=30, limits={"queued": 3})
        await front.settle()
        clients = await queue_up(front, 3)
        response = await front.ask(request())
        assert (response.status, response.code, response.header("retry-after")) == (503, "queue_full", "2")
        message = response.json()["error"]["message"]
        assert "loading demo: weights" in message
        assert "limit_queued" in message
        assert waiting(front) == len(clients)


async def test_several_processes_share_the_limits_of_a_model(worker: ScriptedWorker) -> None:
    doors = Doors()
    worker.script = doors.script
    async with running_front(processes=4) as front:
        front.routes(worker, hold_s=30, limits={"concurrent": 5, "queued": 9})
        await front.settle()
        clients = [await front.connect() for _ in range(6)]
        for client in clients:
            await client.send(request())
        refused, pending = await asyncio.wait(
            [asyncio.create_task(client.response()) for client in clients], return_when=asyncio.FIRST_COMPLETED
        )
        assert [one.result().code for one in refused] == ["queue_full"]
        await until(lambda: doors.inside == 2)
        assert waiting(front) == 3
        doors.let_out(5)
        assert {(await one).status for one in pending} == {200}


async def test_who_leaves_while_waiting_is_forgotten_at_once(loading: FrontUnderTest, worker: ScriptedWorker) -> None:
    clients = await queue_up(loading, 3)
    clients[1].reset()
    assert await until(lambda: waiting(loading) == 2) < 0.5
    loading.routes(worker, hold_s=30)
    for client in (clients[0], clients[2]):
        assert (await client.response()).status == 200
    assert sorted(numbers(worker)) == [0, 2]


async def test_who_waits_for_a_model_that_is_removed_is_told_so(loading: FrontUnderTest) -> None:
    clients = await queue_up(loading, 40)
    other = messages.RouteModel("other", ["other"], "fake", "starting", "", 0.0, [], 30.0)
    await loading.tell(messages.Routes([other], was_ready=True))
    responses = await answers(clients)
    assert {(one.status, one.code) for one in responses} == {(404, "model_not_found")}
    assert "Served here: other." in responses[0].json()["error"]["message"]


async def test_a_longer_wait_holds_for_those_who_wait_already(loading: FrontUnderTest, worker: ScriptedWorker) -> None:
    loading.routes(state="starting", hold_s=0.3)
    await loading.settle()
    clients = await queue_up(loading, 3)
    loading.routes(state="starting", hold_s=30)
    await asyncio.sleep(0.5)
    loading.routes(worker, hold_s=30)
    assert {one.status for one in await answers(clients)} == {200}


async def test_a_shorter_wait_holds_for_them_too(loading: FrontUnderTest) -> None:
    clients = await queue_up(loading, 3)
    loading.routes(state="starting", hold_s=0)
    assert {one.code for one in await answers(clients)} == {"model_loading"}


async def test_in_a_drain_nobody_waits_for_what_will_not_be_ready(loading: FrontUnderTest) -> None:
    clients = await queue_up(loading, 40)
    began = time.monotonic()
    await loading.tell(messages.Drain(began + 20))
    assert {(one.status, one.code) for one in await answers(clients)} == {(503, "shutting_down")}
    await loading.hears(lambda message: message == messages.FrontDrained(0))
    assert time.monotonic() - began < 2.0


async def test_in_a_drain_those_who_wait_for_a_ready_model_are_served_until_the_deadline(
    worker: ScriptedWorker,
) -> None:
    doors = Doors()
    worker.script = doors.script
    async with running_front() as front:
        front.routes(worker, hold_s=30, limits={"concurrent": 1})
        await front.settle()
        first = await front.connect()
        await first.send(request())
        await until(lambda: doors.inside == 1)
        clients = await queue_up(front, 3)
        await front.tell(messages.Drain(time.monotonic() + 2.5))
        doors.let_out(2)
        assert (await first.response()).status == 200
        assert (await clients[0].response()).status == 200
        # The second is at the worker and the third in the line when the time is up.
        assert [one.code for one in await answers(clients[1:])] == ["shutting_down"] * 2
        await front.hears(lambda message: message == messages.FrontDrained(2))


async def test_no_more_than_the_limit_are_in_flight_and_the_rest_is_served_in_turn(worker: ScriptedWorker) -> None:
    doors = Doors()
    worker.script = doors.script
    async with running_front() as front:
        front.routes(worker, hold_s=30, limits={"concurrent": 4, "queued": 100})
        await front.settle()
        clients = [await front.connect() for _ in range(40)]
        for client in clients:
            await client.send(request())
        for left in range(36, 0, -4):
            await until(lambda left=left: (doors.inside, waiting(front)) == (4, left))
            doors.let_out(4)
        doors.let_out(4)
        assert {one.status for one in await answers(clients)} == {200}
        assert doors.most_inside == 4
        assert front.front._table.models[0].in_flight == 0


async def test_one_that_waits_in_vain_for_others_to_end_is_told_of_the_limit(worker: ScriptedWorker) -> None:
    doors = Doors()
    worker.script = doors.script
    async with running_front() as front:
        for hold_s in (0.2, 0.0):
            front.routes(worker, hold_s=hold_s, limits={"concurrent": 1})
            await front.settle()
            holder = await front.connect()
            await holder.send(request())
            await until(lambda: doors.inside == 1)
            response = await front.ask(request())
            assert (response.status, response.code, response.header("retry-after")) == (503, "queue_full", "2")
            assert "1 requests in flight to end (limit_concurrent)" in response.json()["error"]["message"]
            doors.let_out(1)
            assert (await holder.response()).status == 200


async def test_a_raised_limit_lets_those_in_who_wait(worker: ScriptedWorker) -> None:
    doors = Doors()
    worker.script = doors.script
    async with running_front() as front:
        front.routes(worker, hold_s=30, limits={"concurrent": 1})
        await front.settle()
        clients = [await front.connect() for _ in range(5)]
        for client in clients:
            await client.send(request())
        await until(lambda: waiting(front) == 4)
        front.routes(worker, hold_s=30, limits={"concurrent": None})
        await until(lambda: doors.inside == 5)
        doors.let_out(5)
        assert {one.status for one in await answers(clients)} == {200}


async def test_a_client_that_leaves_its_place_in_flight_gives_it_to_the_next(worker: ScriptedWorker) -> None:
    doors = Doors()

    async def script(turn: Turn) -> None:
        if doors.inside == 0:
            doors.inside = 1
            await turn.until_client_left()
        else:
            await turn.json(200, {})

    worker.script = script
    async with running_front() as front:
        front.routes(worker, hold_s=30, limits={"concurrent": 1})
        await front.settle()
        first = await front.connect()
        await first.send(request())
        await until(lambda: doors.inside == 1)
        (second,) = await queue_up(front, 1)
        first.reset()
        assert (await second.response()).status == 200


async def test_who_waits_is_counted_while_he_does_and_with_his_time(
    loading: FrontUnderTest, worker: ScriptedWorker
) -> None:
    clients = await queue_up(loading, 3)
    text = (await loading.get("/metrics")).body.decode()
    assert 'ichat_front_queued{process="0",model="demo"} 3\n' in text
    clients[0].reset()
    await until(lambda: waiting(loading) == 2)
    loading.routes(worker, hold_s=30)
    assert {one.status for one in await answers(clients[1:])} == {200}
    text = (await loading.get("/metrics")).body.decode()
    assert 'ichat_front_queued{process="0",model="demo"} 0\n' in text
    assert 'ichat_front_queue_seconds_count{process="0",model="demo"} 3\n' in text


# ---- a worker that cannot be reached -------------------------------------------------------------------------------


async def test_what_could_not_be_sent_waits_for_the_launchers_word(worker: ScriptedWorker) -> None:
    """A worker was killed: who comes before the launcher has said so waits like who comes after."""
    async with running_worker() as new, running_front() as front:
        front.routes(worker, hold_s=30)
        await front.settle()
        await worker.stop()
        clients = [await front.connect() for _ in range(30)]
        for client in clients:
            await client.send(request())
        await front.hears(lambda message: isinstance(message, messages.WorkerFault))
        await front.tell(messages.Routes([starting(hold_s=30)], was_ready=True))
        await until(lambda: waiting(front) == 30)
        front.routes(new, incarnations=("b",), hold_s=30)
        assert {one.status for one in await answers(clients)} == {200}


def starting(hold_s: float) -> messages.RouteModel:
    return messages.RouteModel("demo", ["demo"], "fake", "starting", "restarting: killed", 0.0, [], hold_s)


async def test_without_the_launchers_word_it_is_a_502_within_a_second(worker: ScriptedWorker) -> None:
    async with running_front() as front:
        front.routes(worker, hold_s=30)
        await front.settle()
        await worker.stop()
        began = time.monotonic()
        response = await front.ask(request())
        assert (response.status, response.code) == (502, "worker_lost")
        assert time.monotonic() - began < 1.0


async def test_a_worker_that_can_be_reached_again_serves_those_who_waited_for_it(tmp_path: Path) -> None:
    worker = ScriptedWorker(str(tmp_path / "http.sock"))
    async with running_front() as front:
        front.routes(worker, hold_s=30)
        await front.settle()
        clients = [await front.connect() for _ in range(5)]
        for client in clients:
            await client.send(request())
        await until(lambda: waiting(front) == 5)
        await worker.start()
        try:
            assert {one.status for one in await answers(clients)} == {200}
        finally:
            await worker.stop()


async def test_what_was_sent_and_lost_does_not_wait(worker: ScriptedWorker) -> None:
    """The engine may have died of it."""

    async def die(turn: Turn) -> None:
        turn.abort()

    worker.script = die
    async with running_front() as front:
        front.routes(worker, hold_s=30)
        await front.settle()
        began = time.monotonic()
        response = await front.ask(request())
        assert (response.status, response.code) == (502, "worker_lost")
        assert time.monotonic() - began < 1.0
        assert len(worker.seen) == 1


async def test_nothing_is_left_behind_whatever_happens_to_those_who_wait(worker: ScriptedWorker) -> None:
    """Some leave, some are refused, some are served: every count is zero in the end."""
    async with running_front() as front:
        for turn in range(30):
            front.routes(state="starting", hold_s=30, limits={"queued": 8, "concurrent": 2})
            await front.settle()
            clients = [await front.connect() for _ in range(12)]
            for client in clients:
                await client.send(request())
            await until(lambda: waiting(front) == 8)
            for client in clients[turn % 3 :: 3]:
                client.reset()
            if turn % 4 == 0:
                await front.tell(messages.Routes([], was_ready=True))
            else:
                front.routes(worker, hold_s=30, limits={"queued": 8, "concurrent": 2})
            for client in clients:
                with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                    assert (await client.response()).status in (200, 404, 503)
            await until(lambda: front.front._traffic.in_flight == 0)
            assert waiting(front) == 0
            assert sum(model.in_flight for model in front.front._table.models) == 0
            assert sum(one.in_flight for one in front.front._table.workers) == 0
            assert front.front._reception.bodies.count == 0
            assert front.front._traffic.model("demo").queued == 0
