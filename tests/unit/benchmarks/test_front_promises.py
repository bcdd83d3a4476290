"""The instruments with which the front is held to its promises: workers that fail on command, bytes that are compared."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from benchmarks.front import witness
from benchmarks.front.byte_identity import Sample, is_identical, samples
from benchmarks.front.witness import Answer, Request, Witness, under_load
from ichat.front.routes import find_route, known_routes

SAMPLES = list(samples())
ASK = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"


def test_every_route_of_the_allow_list_is_sampled_with_every_method() -> None:
    asked = Counter(
        (b"".join(sample.pieces).split(b" ", 1)[0], find_route(sample.target.partition(b"?")[0])) for sample in SAMPLES
    )
    for route in known_routes():
        for method in set(route.methods) - {b"OPTIONS"}:
            assert asked[method, route] >= 1


def test_the_samples_are_valid_but_no_parser_would_write_them_so() -> None:
    bodies = [sample.body for sample in SAMPLES if sample.body.lstrip().startswith(b"{")]
    assert max(len(body) for body in bodies) > 1024 * 1024
    assert all(json.loads(body)["model"] == "demo" for body in bodies)
    assert not any(json.dumps(json.loads(body)).encode() == body for body in bodies)


def test_samples_are_the_same_each_time_and_end_up_whole() -> None:
    assert SAMPLES[:20] == list(samples())[:20]
    for sample in SAMPLES:
        if sample.body and b"chunked" not in b"".join(sample.pieces)[:400]:
            assert b"".join(sample.pieces).endswith(b"\r\n\r\n" + sample.body)


SAMPLE = Sample(b"/score?a=1", b'{"a" :1}', [b"irrelevant"], b"answer", b"raw")


@pytest.mark.parametrize(
    ("seen", "answer", "is_same"),
    [
        ([(b"/score?a=1", b'{"a" :1}')], Answer(200, b"answer"), True),
        ([(b"/score?a=1", b'{"a": 1}')], Answer(200, b"answer"), False),
        ([(b"/score", b'{"a" :1}')], Answer(200, b"answer"), False),
        ([(b"/score?a=1", b'{"a" :1}')] * 2, Answer(200, b"answer"), False),
        ([], Answer(200, b"answer"), False),
        ([(b"/score?a=1", b'{"a" :1}')], Answer(200, b"answe"), False),
        ([(b"/score?a=1", b'{"a" :1}')], Answer(502, b"answer"), False),
    ],
)
def test_a_byte_more_or_less_in_either_direction_is_seen(
    seen: list[tuple[bytes, bytes]], answer: Answer, is_same: bool
) -> None:
    assert is_identical(SAMPLE, [Request(target, body, 0.0) for target, body in seen], answer) is is_same


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Witness]:
    one = Witness(str(tmp_path / "w"))
    await one.start()
    yield one
    one.kill()


async def ask(path: str) -> bytes:
    """All that comes until the end of the connection, or a whole head."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(ASK)
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""
    finally:
        writer.close()


async def test_a_witness_does_what_it_is_told(worker: Witness) -> None:
    assert b" 200 " in await ask(worker.path)
    worker.behaviour = witness.answers_status(503)
    assert b" 503 " in await ask(worker.path)
    worker.behaviour = witness.resets
    assert await ask(worker.path) == b""
    _, request = await worker.next_seen()
    assert (request.target, request.body) == (b"/v1/completions", b"{}")
    assert len(worker.seen) == 2


async def test_a_killed_witness_keeps_no_connection_and_comes_back_elsewhere(worker: Witness) -> None:
    worker.behaviour = witness.is_silent
    asking = asyncio.create_task(ask(worker.path))
    connection, _ = await worker.next_seen()
    killed = worker.path
    worker.kill()
    assert await asking == b""
    assert connection.lost_at > 0
    assert not Path(killed).exists()
    await worker.start()
    worker.behaviour = witness.answers
    assert worker.path != killed
    assert b" 200 " in await ask(worker.path)


async def test_a_load_lasts_as_long_as_what_happens_meanwhile_and_counts_lost_answers() -> None:
    asked = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        asked.set()
        writer.transport.abort()

    async def until_asked() -> None:
        await asked.wait()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        found = await under_load(server.sockets[0].getsockname()[1], 1, ASK, until_asked())
    assert found
    assert {answer.status for answer in found} == {0}


async def test_what_fails_meanwhile_ends_the_load(worker: Witness) -> None:
    async def fail() -> None:
        raise RuntimeError("it happened")

    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        with pytest.raises(RuntimeError, match="it happened"):
            await under_load(server.sockets[0].getsockname()[1], 2, ASK, fail())
