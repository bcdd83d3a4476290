"""All request bodies together have an end, and whatever happens to a request its bytes are counted off again."""

import asyncio
import contextlib
import random

import pytest

from ichat.config.schema import Limits, Timeouts
from ichat.front.held_bodies import HeldBodies
from ichat.ipc import messages
from tests.unit.front.conftest import until
from tests.unit.front.raw_client import CHAT, Client, request
from tests.unit.front.running_front import FrontUnderTest, running_front
from tests.unit.front.scripted_worker import ScriptedWorker, Turn

HEAD = f"POST {CHAT} HTTP/1.1\r\nHost: front\r\n".encode()
CAP = 100_000


def held(front: FrontUnderTest) -> int:
    return front.front._reception.bodies.count


def body(size: int) -> bytes:
    return b'{"x": "' + b"a" * (size - 9) + b'"}'


class Gate:
    def __init__(self) -> None:
        self.is_open = asyncio.Event()

    async def script(self, turn: Turn) -> None:
        await self.is_open.wait()
        await turn.json(200, {})


async def test_what_is_in_flight_counts_until_its_answer_is_complete(worker: ScriptedWorker) -> None:
    gate = Gate()
    worker.script = gate.script
    async with running_front(worker, limits={"bodies_bytes": CAP}) as front:
        client = await front.connect()
        await client.send(request(body=body(60_000)))
        await until(lambda: len(worker.seen) == 1)
        assert held(front) == 60_000
        gate.is_open.set()
        assert (await client.response()).status == 200
        assert held(front) == 0
        client.close()


@pytest.mark.parametrize("size", [45_000, 10_000])
async def test_what_would_be_too_much_is_refused_before_it_is_read(worker: ScriptedWorker, size: int) -> None:
    """Also where its head is known already, and head and body come in one read."""
    gate = Gate()
    async with running_front(worker, limits={"bodies_bytes": CAP}) as front:
        assert (await front.ask(request(body=body(10_000)))).status == 200
        worker.script = gate.script
        first = await front.connect()
        await first.send(request(body=body(95_000)))
        await until(lambda: len(worker.seen) == 2)
        if size == 45_000:  # announced, never sent
            refused = await front.ask(HEAD + b"Content-Length: %d\r\n\r\n" % size)
        else:
            refused = await front.ask(request(body=body(size)))
        assert (refused.status, refused.code, refused.header("retry-after")) == (503, "overloaded", "2")
        assert "server.limits.bodies_bytes" in refused.json()["error"]["message"]
        gate.is_open.set()
        assert (await first.response()).status == 200
        first.close()
        await until(lambda: held(front) == 0)


async def test_a_body_without_a_length_is_refused_when_it_becomes_too_much(worker: ScriptedWorker) -> None:
    gate = Gate()
    worker.script = gate.script
    async with running_front(worker, limits={"bodies_bytes": CAP}) as front:
        first = await front.connect()
        await first.send(request(body=body(60_000)))
        await until(lambda: len(worker.seen) == 1)
        second = await front.connect()
        await second.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(6):
            second.writer.write(b"2710\r\n" + b"a" * 10_000 + b"\r\n")
        refused = await second.response()
        assert (refused.status, refused.code) == (503, "overloaded")
        assert await second.is_closed()
        assert held(front) == 60_000
        first.reset()
        await until(lambda: held(front) == 0)


async def test_what_has_only_been_announced_takes_no_room(worker: ScriptedWorker) -> None:
    """Else a few clients that announce much and send nothing would keep all others out."""
    async with running_front(worker, limits={"bodies_bytes": CAP}) as front:
        idlers = [await front.connect() for _ in range(10)]
        for idler in idlers:
            await idler.send(HEAD + b"Content-Length: 90000\r\n\r\n")
        assert (await front.ask(request(body=body(90_000)))).status == 200
        for idler in idlers:
            idler.close()


async def test_what_waits_for_a_model_counts_too() -> None:
    async with running_front(limits={"bodies_bytes": CAP}) as front:
        front.routes(state="starting", hold_s=30)
        await front.settle()
        clients = [await front.connect() for _ in range(3)]
        for client in clients:
            await client.send(request(body=body(30_000)))
        await until(lambda: held(front) == 90_000)
        assert (await front.ask(request(body=body(30_000)))).code == "overloaded"
        await front.tell(messages.Routes([], was_ready=True))
        assert {(await client.response()).code for client in clients} == {"model_not_found"}
        assert held(front) == 0


def test_each_process_has_its_share_but_room_for_one_body() -> None:
    for processes, limit in ((1, 1000), (2, 500), (64, 100)):
        assert HeldBodies(Limits(bodies_bytes=1000, body_bytes=100), Timeouts(), processes).limit == limit
    assert HeldBodies(Limits(bodies_bytes=50, body_bytes=100), Timeouts(), 4).limit == 50


# ---- in volume -----------------------------------------------------------------------------------------------------


class Chaos:
    """A worker that answers, streams, fails, resets or never answers; a client that may leave at any point."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)

    async def script(self, turn: Turn) -> None:
        kind = self.chance.randrange(7)
        if kind == 0:
            turn.abort()
        elif kind == 1:
            await turn.json(self.chance.choice([400, 429, 500, 503]), {})
        elif kind == 2:
            await turn.start_events()
            for _ in range(self.chance.randrange(4)):
                await turn.chunk(b"data: 1\n\n")
                await asyncio.sleep(self.chance.random() * 0.004)
            turn.abort()
        elif kind == 3:
            with contextlib.suppress(TimeoutError):
                await turn.until_client_left(0.2)
            turn.abort()
        else:
            await asyncio.sleep(self.chance.random() * 0.004)
            await turn.json(200, {})

    def request(self) -> bytes:
        chance, size = self.chance, self.chance.choice([10, 500, 30_000, 90_000])
        kind = chance.randrange(8)
        if kind == 0:
            return request(target="/nowhere", body=body(size))
        if kind == 1:
            return request(body=b"[" * size)
        if kind == 2:
            return HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (size, body(size))
        if kind == 3:
            return HEAD + b"Content-Length: 200000\r\n\r\n" + body(size)
        if kind == 4:
            return request(body=b'{"model": "nobody"}')
        if kind == 5:  # several ahead
            return request(body=body(size)) * 3
        return request(body=body(size))

    async def client(self, front: FrontUnderTest) -> None:
        client = await front.connect()
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, TimeoutError):
            await self._use(client)
        if self.chance.randrange(2) and not client.writer.is_closing():
            client.reset()
        else:
            client.close()

    async def _use(self, client: Client) -> None:
        for _ in range(self.chance.randrange(1, 4)):
            data = self.request()
            cut = self.chance.randrange(1, len(data)) if self.chance.randrange(3) == 0 else len(data)
            await client.send(data[:cut])
            await asyncio.sleep(self.chance.random() * 0.004)
            if client.writer.is_closing() or (cut < len(data) and self.chance.randrange(2)):
                return
            client.writer.write(data[cut:])
            async with asyncio.timeout(self.chance.random() * 0.3):
                await client.response()


@pytest.mark.parametrize("seed", range(3))
async def test_the_count_returns_to_zero_whatever_happens(worker: ScriptedWorker, seed: int) -> None:
    chaos = Chaos(seed)
    worker.script = chaos.script
    limits = {"bodies_bytes": 400_000, "body_bytes": 150_000}
    async with running_front(worker, limits=limits, receive_body_s=0.3) as front:
        for turn in range(12):
            front.routes(
                worker, state="starting" if turn % 4 == 3 else "ready", incarnations=(str(turn // 3),), hold_s=0.2,
                limits={"queued": 8, "concurrent": 8},
            )  # fmt: skip
            await asyncio.gather(*(chaos.client(front) for _ in range(40)))
        await until(lambda: not front.front._reception.clients, 5)
        assert held(front) == 0
        assert front.front._traffic.in_flight == 0
        assert sum(model.in_flight + len(model.waiters) for model in front.front._table.models) == 0
        assert sum(one.in_flight for one in front.front._table.workers) == 0
