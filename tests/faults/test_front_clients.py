"""Clients that leave or stall: FAULTS C1, C3, G10 at the front."""

import asyncio
import socket
import statistics
import time

import pytest

from tests.unit.front.conftest import event_loop_policy, front, until, worker
from tests.unit.front.raw_client import request
from tests.unit.front.running_front import FrontUnderTest, running_front
from tests.unit.front.scripted_worker import ScriptedWorker, Turn

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy:pytest.PytestDeprecationWarning")

__all__ = ["event_loop_policy", "front", "worker"]  # fixtures


@pytest.mark.parametrize("way", ["close", "reset"])
@pytest.mark.parametrize("moment", ["before the head", "in the stream", "in a long answer"])
async def test_a_client_that_leaves_is_seen_by_the_worker_within_100_ms(
    worker: ScriptedWorker, way: str, moment: str
) -> None:
    left_at: list[float] = []
    delays: list[float] = []

    async def script(turn: Turn) -> None:
        if moment == "in the stream":
            await turn.start_events()
            await turn.chunk(b"data: 1\n\n")
        elif moment == "in a long answer":
            await turn.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nabc")
        await turn.until_client_left()
        left_at.append(time.monotonic())
        turn.keeps_open = False

    worker.script = script
    async with running_front(worker, connect_s=0.1) as front:
        for number in range(10):
            client = await front.connect()
            await client.send(request())
            await until(lambda number=number: len(worker.seen) == number + 1)
            if moment == "in the stream":
                await client.reader.readuntil(b"\n\n")
            began = time.monotonic()
            getattr(client, way)()
            await until(lambda number=number: len(left_at) == number + 1)
            delays.append(left_at[-1] - began)
        assert statistics.median(delays) < 0.1
        await until(lambda: worker.open_connections == 0)
        text = (await front.get("/metrics")).body
        assert b'ichat_front_client_left_total{process="0",model="demo"} 10\n' in text
        assert b'ichat_front_in_flight{process="0",model="demo",ichat_instance="demo/0"} 0\n' in text


async def test_a_client_that_leaves_in_mid_request_costs_nothing(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    whole = request()
    for end in range(1, len(whole), 7):
        client = await front.connect()
        await client.send(whole[:end])
        client.close() if end % 2 else client.reset()
    assert (await front.ask(request())).status == 200
    assert len(worker.seen) == 1


async def test_a_client_that_reads_nothing_pauses_its_worker_and_is_cut_off(worker: ScriptedWorker) -> None:
    sent = 0

    async def flood(turn: Turn) -> None:
        nonlocal sent
        await turn.start_events()
        while True:
            await turn.chunk(b"data: " + b"a" * 10_000 + b"\n\n")
            sent += 10_000

    worker.script = flood
    async with running_front(worker, write_stall_s=0.4) as front:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        sock.connect(("127.0.0.1", front.port))
        sock.sendall(request())
        await asyncio.sleep(0.25)
        before = sent
        await asyncio.sleep(0.05)
        assert sent == before  # the kernel's buffers are full, and nobody else's fill up
        (client,) = front.front._reception.clients
        assert client.unsent_bytes <= 256 * 1024
        await until(lambda: worker.open_connections == 0)
        sock.close()


async def test_a_slow_reader_is_not_taken_for_a_stalled_one(worker: ScriptedWorker) -> None:
    body = b"x" * 20_000_000

    async def script(turn: Turn) -> None:
        await turn.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body))
        await turn.send(body)

    worker.script = script
    async with running_front(worker, write_stall_s=0.2) as front:
        client = await front.connect()
        await client.send(request())
        await client.reader.readuntil(b"\r\n\r\n")
        received, began = 0, time.monotonic()
        while received < len(body):
            received += len(await client.reader.read(2_000_000))
            await asyncio.sleep(0.05)
        assert received == len(body)
        assert time.monotonic() - began > 0.3
        client.close()
