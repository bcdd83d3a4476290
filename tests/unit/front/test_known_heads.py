"""A head that is recognised means exactly what the parser said of it, and nothing else is ever recognised."""

import time

from hypothesis import given
from hypothesis import strategies as st

from ichat.config.schema import Limits, Timeouts
from ichat.front.held_bodies import HeldBodies
from ichat.front.known_heads import KnownHeads, take_apart
from ichat.front.request import Request
from ichat.front.request_reader import RequestReader
from ichat.front.routes import find_route
from ichat.ipc import messages
from tests.unit.front.raw_client import BODY, CHAT, request
from tests.unit.front.running_front import FrontUnderTest, running_front
from tests.unit.front.scripted_worker import ScriptedWorker, Turn


def judge(request: Request) -> None:
    request.route = find_route(request.path)


def reader(known: KnownHeads[Request]) -> RequestReader:
    return RequestReader(Limits(), judge, known, lambda: None, HeldBodies(Limits(), Timeouts(), 1))


def told(reader: RequestReader, data: bytes) -> list[object]:
    """All that somebody could learn of what was read."""
    failure = reader.feed(data)
    read = [
        (one.to_worker(), one.path, one.route, one.keep_alive, one.values(b"x"), bytes(one.body))
        for one in reader.complete
    ]
    return [failure and (failure.status, failure.message), *read]


PARTS = st.lists(
    st.sampled_from(
        [
            "Content-Length: {n}",
            "content-length: {n}",
            "Content-Length: 0{n}",
            "Content-Length: {n} ",
            "Content-Length:  {n}",
            "Content-Length: +{n}",
            "Content-Length: ",
            "X: Content-Length: {n}",
            "X: a",
            "Host: front",
            "Transfer-Encoding: chunked",
            "Connection: close",
            "Connection: x",
            "Expect: 100-continue",
        ]
    ),
    max_size=4,
)


@given(PARTS, st.integers(0, 12), st.integers(0, 12), st.integers(-1, 2), st.sampled_from(["1.1", "1.1", "1.0", "2.0"]))
def test_what_is_recognised_is_what_would_have_been_parsed(
    parts: list[str], first: int, second: int, excess: int, version: str
) -> None:
    def raw(length: int, size: int) -> bytes:
        lines = "".join(part.format(n=length) + "\r\n" for part in parts)
        return f"POST {CHAT} HTTP/{version}\r\nHost: front\r\n{lines}\r\n".encode() + b"a" * size

    known: KnownHeads[Request] = KnownHeads(8)
    reader(known).feed(raw(first, first))
    data = raw(second, max(0, second + excess))
    assert told(reader(known), data) == told(reader(KnownHeads(0)), data)


def test_only_a_whole_request_alone_is_taken_apart() -> None:
    whole = request()
    head = whole[: -len(BODY) - 4].replace(b": %d" % len(BODY), b": ")
    assert take_apart(whole) == (head, BODY)
    early = b"\r\n\r\n" + whole
    for other in (whole[:-1], whole + b"a", whole + whole, whole[:40], request(body=None), b"", early):
        assert take_apart(other) is None


def test_a_full_memory_forgets_and_a_closed_one_stays_empty() -> None:
    known: KnownHeads[int] = KnownHeads(2)
    for number in range(3):
        known.remember(b"%d" % number, number)
    assert (known.recall(b"0"), known.recall(b"2")) == (None, 2)
    known.close()
    known.remember(b"3", 3)
    assert (known.recall(b"2"), known.recall(b"3")) == (None, None)


def test_a_kept_head_holds_no_body() -> None:
    known: KnownHeads[Request] = KnownHeads(2)
    reader(known).feed(request())
    head, _ = take_apart(request()) or (b"", b"")
    kept = known.recall(head)
    assert kept is not None
    assert kept.body == b""


async def test_requests_and_answers_of_every_length_pass_through_known_heads(
    front: FrontUnderTest, worker: ScriptedWorker
) -> None:
    async def echo(turn: Turn) -> None:
        await turn.json(200, {"echo": turn.seen.body.decode()}, "x-request-id: 1\r\n")

    worker.script = echo
    client = await front.connect()
    for size in (0, 1, 9, 10, 99, 100, 1, 0, 5000, 20_000, 3):
        body = b'{"x": "%b"}' % (b"a" * size)
        await client.send(request(body=body, headers="X-A: b\r\n"))
        response = await client.response()
        assert response.json() == {"echo": body.decode()}
        assert response.header("x-request-id") == "1"
        assert worker.seen[-1].headers == [("Host", "front"), ("X-A", "b"), ("content-length", str(len(body)))]
    client.close()


async def test_a_known_head_has_the_key_it_was_admitted_with(worker: ScriptedWorker) -> None:
    async with running_front(worker, api_keys=["k1"]) as front:
        for key, status in (("k1", 200), ("k1", 200), ("k2", 401), ("k2", 401), ("k1", 200)):
            assert (await front.ask(request(headers=f"Authorization: Bearer {key}\r\n"))).status == status


async def test_a_known_head_does_not_get_past_a_limit(worker: ScriptedWorker) -> None:
    async with running_front(worker, limits={"body_bytes": len(BODY)}) as front:
        assert (await front.ask(request())).status == 200
        assert (await front.ask(request(body=BODY + b" "))).status == 413


async def test_a_known_head_is_refused_in_a_drain(front: FrontUnderTest) -> None:
    assert (await front.ask(request())).status == 200
    await front.tell(messages.Drain(time.monotonic() + 5))
    assert (await front.ask(request())).code == "shutting_down"


async def test_a_failure_with_a_known_head_is_still_a_failure(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    async def fail(turn: Turn) -> None:
        await turn.json(500, {"error": "secret" + "x" * len(worker.seen)})

    worker.script = fail
    for _ in range(3):
        response = await front.ask(request())
        assert (response.status, response.code) == (500, "engine_error")
        assert b"secret" not in response.body
