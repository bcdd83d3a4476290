"""Workers that die, lie, fail or are replaced: FAULTS G1, G7, G8, G9, X8 at the front."""

import asyncio
import socket
import tempfile
import time
from pathlib import Path

import pytest

from ichat.ipc import messages
from tests.unit.front.conftest import event_loop_policy, front, until, worker
from tests.unit.front.raw_client import request
from tests.unit.front.running_front import FrontUnderTest, running_front
from tests.unit.front.scripted_worker import ScriptedWorker, Turn, answer_json, running_worker

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy:pytest.PytestDeprecationWarning")

__all__ = ["event_loop_policy", "front", "worker"]  # fixtures


_CHAT = b'{"model":"demo","messages":[{"role":"user","content":"hi"}],"stream":%s}'


async def die(turn: Turn) -> None:
    turn.abort()


async def unavailable(turn: Turn) -> None:
    await turn.json(502, {})


async def test_a_request_that_a_worker_died_of_is_not_sent_to_another(worker: ScriptedWorker) -> None:
    async with running_worker() as other, running_front(worker, other) as front:
        worker.script = other.script = answer_json
        assert {(await front.ask(request())).status for _ in range(4)} == {200}  # kept connections to both
        before = len(worker.seen) + len(other.seen)
        worker.script = other.script = die
        response = await front.ask(request())
        assert (response.status, response.code) == (502, "worker_lost")
        assert len(worker.seen) + len(other.seen) == before + 1


async def test_a_500_is_told_and_not_tried_elsewhere(worker: ScriptedWorker) -> None:
    async def failing(turn: Turn) -> None:
        await turn.json(500, {})

    async with running_worker() as other, running_front(worker, other) as front:
        worker.script = other.script = failing
        response = await front.ask(request())
        assert (response.status, response.code) == (500, "engine_error")
        assert len(worker.seen) + len(other.seen) == 1


async def test_an_engine_that_is_full_is_no_fault_and_another_is_asked(worker: ScriptedWorker) -> None:
    async def full(turn: Turn) -> None:
        await turn.json(503, {"error": "queue of engine 7 is full"})

    async with running_worker() as other, running_front(worker, other) as front:
        worker.script = full
        for _ in range(20):
            assert (await front.ask(request())).status == 200
        other.script = full
        response = await front.ask(request())
        assert (response.status, response.code, response.header("retry-after")) == (503, "queue_full", "2")
        assert "engine 7" not in response.body.decode()
        assert "ichat_front_worker_faults_total{" not in (await front.get("/metrics")).body.decode()


async def test_a_worker_that_dies_before_its_answer_is_a_502_at_once(
    front: FrontUnderTest, worker: ScriptedWorker
) -> None:
    worker.script = die
    began = time.monotonic()
    response = await front.ask(request())
    assert (response.status, response.code) == (502, "worker_lost")
    assert time.monotonic() - began < 0.5
    fault = await front.hears(lambda message: isinstance(message, messages.WorkerFault))
    assert (fault.instance, fault.incarnation) == ("demo/0", "a")
    assert len(worker.seen) == 1


async def test_a_worker_that_is_gone_is_a_502_at_once(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    await worker.stop()
    response = await front.ask(request())
    assert (response.status, response.code) == (502, "worker_lost")
    await front.hears(lambda message: isinstance(message, messages.WorkerFault))


async def test_a_request_that_another_worker_can_take_is_taken(worker: ScriptedWorker) -> None:
    async with running_worker() as other, running_front(worker, other) as front:
        worker.slams = True
        for _ in range(8):
            assert (await front.ask(request())).status == 200
        assert worker.connections >= 1
        assert len(other.seen) == 8
        # It rests after its failures, and is used again when it has recovered.
        worker.slams = False
        before = len(worker.seen)
        took = await until_served(front, worker, before)
        assert took < 1.5


async def until_served(front: FrontUnderTest, worker: ScriptedWorker, before: int) -> float:
    began = time.monotonic()
    while len(worker.seen) == before:
        assert time.monotonic() - began < 3
        assert (await front.ask(request())).status == 200
        await asyncio.sleep(0.02)
    return time.monotonic() - began


@pytest.mark.parametrize("status", [502, 503])
async def test_a_worker_that_is_unavailable_is_not_the_favourite(worker: ScriptedWorker, status: int) -> None:
    async def unavailable(turn: Turn) -> None:
        await turn.json(status, {"error": "secret path /models/x"})

    worker.script = unavailable
    async with running_worker() as other, running_front(worker, other) as front:
        responses = [await front.ask(request()) for _ in range(30)]
        assert {response.status for response in responses} == {200}
        assert len(worker.seen) < 10


@pytest.mark.parametrize("status", [500, 502, 504])
async def test_an_engines_failure_passes_without_its_words(
    front: FrontUnderTest, worker: ScriptedWorker, status: int
) -> None:
    async def script(turn: Turn) -> None:
        await turn.json(
            status, {"error": "<PIL.Image at 0x7f00deadbeef>"}, "x-request-id: r-1\r\nretry-after: 9\r\nx-host: a\r\n"
        )

    worker.script = script
    client = await front.connect()
    for _ in range(2):
        await client.send(request())
        response = await client.response()
        assert (response.status, response.code) == (status, "engine_error")
        assert "deadbeef" not in response.body.decode()
        assert (response.header("x-request-id"), response.header("retry-after")) == ("r-1", "9")
        assert response.header("x-host") is None
    client.close()
    assert len(worker.seen) == 2  # nobody else could have taken it


async def test_what_the_engine_cannot_do_is_told_in_its_words(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    async def script(turn: Turn) -> None:
        await turn.json(501, {"error": {"message": "this model does not embed"}})

    worker.script = script
    response = await front.ask(request())
    assert (response.status, response.json()) == (501, {"error": {"message": "this model does not embed"}})


async def test_a_clients_mistakes_do_not_count_against_a_worker(worker: ScriptedWorker) -> None:
    async def refuse(turn: Turn) -> None:
        await turn.json(400, {})

    worker.script = refuse
    async with running_worker() as other, running_front(worker, other) as front:
        for _ in range(20):
            await front.ask(request())
        assert len(worker.seen) == len(other.seen) == 10


async def test_retries_stay_within_their_budget(worker: ScriptedWorker) -> None:
    async with running_worker() as other, running_front(worker, other, sweep_every_s=30) as front:
        worker.script = other.script = unavailable
        responses = [await front.ask(request()) for _ in range(60)]
        assert {response.status for response in responses} == {502}
        assert len(worker.seen) + len(other.seen) <= 60 + 11


async def test_a_connection_that_ended_while_it_was_idle_is_nobodys_problem(
    front: FrontUnderTest, worker: ScriptedWorker
) -> None:
    async def closing(turn: Turn) -> None:
        turn.read_no_more()
        await answer_json(turn)
        # As a server whose keep-alive time ends just when the next request is on its way.
        asyncio.get_running_loop().call_later(0.001 * (len(worker.seen) % 5), turn.writer.close)

    worker.script = closing
    client = await front.connect()
    for _ in range(300):
        await client.send(request())
        assert (await client.response()).status == 200
        await asyncio.sleep(0.001)
    client.close()
    assert worker.connections > 10


async def test_a_kept_connection_that_ends_unread_is_replaced(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    turns: list[Turn] = []

    async def reads_one(turn: Turn) -> None:
        turns.append(turn)
        turn.read_no_more()
        await answer_json(turn)

    worker.script = reads_one
    assert (await front.ask(request())).status == 200
    client = await front.connect()
    await client.send(request())
    await asyncio.sleep(0.05)
    turns[0].abort()
    assert (await client.response()).status == 200
    assert (len(worker.seen), worker.connections) == (2, 2)
    client.close()


async def test_idle_connections_to_a_worker_are_closed_in_time(worker: ScriptedWorker) -> None:
    async with running_front(worker, worker_idle_s=0.1) as front:
        assert (await front.ask(request())).status == 200
        assert worker.open_connections == 1
        await until(lambda: worker.open_connections == 0)


async def test_a_new_incarnation_ends_what_waits_for_the_old_one(worker: ScriptedWorker) -> None:
    async def silent(turn: Turn) -> None:
        await turn.until_client_left(10)
        turn.keeps_open = False

    async with running_front(worker) as front, running_worker() as successor:
        assert (await front.ask(request())).status == 200
        worker.script = silent  # as a stopped process: its sockets stay open
        client = await front.connect()
        await client.send(request())
        await until(lambda: len(worker.seen) == 2)
        front.routes(successor, incarnations=("b",))
        response = await asyncio.wait_for(client.response(), 1)
        # It may be what the old one died of, so the successor does not get it.
        assert (response.status, response.code) == (502, "worker_lost")
        assert successor.seen == []
        await until(lambda: worker.open_connections == 0)
        client.close()


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_an_answer_of_which_no_byte_comes_ends_at_the_limit_and_counts_as_a_fault(
    worker: ScriptedWorker, is_streamed: bool
) -> None:
    async def silent(turn: Turn) -> None:
        await turn.until_client_left(10)

    async with running_front(worker, first_byte_s=0.2, sweep_every_s=0.05) as front:
        worker.script = silent
        client = await front.connect()
        await client.send(request(body=_CHAT % (b"true" if is_streamed else b"false")))
        response = await asyncio.wait_for(client.response(), 2)
        assert (response.status, response.code) == (504, "answer_timeout")
        assert b"timeouts.first_byte_s" in response.body
        await until(lambda: worker.open_connections == 0)  # so that the engine aborts it
        worker.script = answer_json
        assert (await front.ask(request())).status == 200
        client.close()


async def test_an_answer_that_has_begun_has_all_the_time(worker: ScriptedWorker) -> None:
    async def slow(turn: Turn) -> None:
        await turn.start_events()
        await turn.chunk(b"data: {}\n\n")
        await asyncio.sleep(0.6)
        await turn.chunk(b"data: [DONE]\n\n")
        await turn.chunk(b"")

    worker.script = slow
    async with running_front(worker, first_byte_s=0.2, sweep_every_s=0.05) as front:
        assert (await front.ask(request())).status == 200


async def test_a_worker_under_suspicion_keeps_its_requests_and_gets_no_new_ones(worker: ScriptedWorker) -> None:
    gate = asyncio.Event()

    async def gated(turn: Turn) -> None:
        await gate.wait()
        await answer_json(turn)

    worker.script = gated
    async with running_front(worker) as front:
        client = await front.connect()
        await client.send(request())
        await until(lambda: len(worker.seen) == 1)
        suspect = messages.Instance("demo/0", "a", worker.path)
        front.routes(state="starting", words="waiting for: an answer", others=(suspect,))
        await front.settle()
        assert (await front.ask(request())).status == 503
        gate.set()
        assert (await client.response()).status == 200
        front.routes(worker)
        await front.settle()
        assert (await front.ask(request())).status == 200
        client.close()


async def test_a_worker_that_talks_nonsense_is_a_502(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    for nonsense in (
        b"SSH-2.0-x\r\n",
        b"HTTP/1.1 101 S\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX\r\n\r\n",
    ):

        async def script(turn: Turn, nonsense: bytes = nonsense) -> None:
            await turn.send(nonsense)
            await turn.until_client_left()
            turn.keeps_open = False

        worker.script = script
        response = await front.ask(request())
        assert (response.status, response.code) == (502, "worker_lost")


async def test_a_full_backlog_is_waited_for() -> None:
    async with running_front() as front:
        directory = Path(tempfile.mkdtemp())
        path = directory / "http.sock"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen(1)
        listener.setblocking(False)
        fillers = []
        while True:
            filler = socket.socket(socket.AF_UNIX)
            filler.setblocking(False)
            fillers.append(filler)
            try:
                filler.connect(str(path))
            except BlockingIOError:
                break
        worker = ScriptedWorker(str(path))
        front.routes(worker)
        await front.settle()
        client = await front.connect()
        await client.send(request())
        await asyncio.sleep(0.05)
        worker._server = await asyncio.start_unix_server(worker._serve, sock=listener)
        assert (await client.response()).status == 200
        client.close()
        for filler in fillers:
            filler.close()
        await worker.stop()
        directory.rmdir()


async def test_waves_of_clients_and_deaths_leave_nothing_behind(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    async def moody(turn: Turn) -> None:
        number = len(worker.seen)
        if number % 5 == 0:
            turn.abort()
        elif number % 5 == 1:
            await turn.start_events()
            await turn.chunk(b"data: 1\n\n")
            turn.abort()
        else:
            await answer_json(turn)

    worker.script = moody

    async def one(number: int) -> None:
        client = await front.connect()
        await client.send(request())
        if number % 3:
            assert (await client.response()).status in (200, 502)
        client.close()

    for wave in range(10):
        await asyncio.gather(*(one(wave * 30 + number) for number in range(30)))
    await until(lambda: not front.front._reception.clients)
    reception = front.front._reception
    assert reception.traffic.in_flight == 0
    assert all(one.in_flight == 0 for one in reception.table.workers)
