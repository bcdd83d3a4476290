"""A stream of events reaches the client event by event, and ends honestly wherever it is cut."""

import asyncio
import functools
import itertools
import json

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ichat.front.errors import WORKER_LOST
from ichat.front.response_body import ChunkedBody, EventBody
from tests.unit.front.raw_client import BODY, Response, request
from tests.unit.front.running_front import FrontUnderTest, running_front
from tests.unit.front.scripted_worker import Script, ScriptedWorker, Seen, Turn, running_worker

EVENTS = [b'data: {"n": %d}\n\n' % number for number in range(6)] + [b"data: [DONE]\n\n"]
LOST = WORKER_LOST.events()


def unframed(data: bytes) -> tuple[bytes, bool]:
    """The content of chunks, and whether the last one is there."""
    content = b""
    while data:
        size, _, rest = data.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            assert rest == b"\r\n"
            return content, True
        content, data = content + rest[:length], rest[length + 2 :]
    return content, False


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


LINE_ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
ANY_EVENTS = st.lists(
    st.tuples(st.binary(max_size=30).map(lambda raw: raw.replace(b"\n", b"").replace(b"\r", b"")), LINE_ENDS).map(
        lambda pair: b"data: " + pair[0] + pair[1] + pair[1]
    ),
    max_size=8,
)


@given(ANY_EVENTS, st.binary(max_size=10), st.lists(st.integers(0, 10_000), max_size=20))
def test_any_chunking_gives_the_same_bytes(events: list[bytes], rest: bytes, cuts: list[int]) -> None:
    stream, body, out = b"".join(events) + rest, EventBody(is_chunked=True), b""
    for piece in pieces(stream, cuts):
        out += body.feed(piece)
    assert unframed(out + b"".join(body.finish())) == (stream, True)


@given(
    st.lists(st.binary(max_size=20).map(lambda raw: b"data: " + raw.hex().encode() + b"\n\n"), min_size=1, max_size=8),
    st.lists(st.integers(0, 10_000), max_size=20),
    st.integers(0, 10_000),
)
def test_a_cut_anywhere_leaves_whole_events_and_an_error(events: list[bytes], cuts: list[int], end: int) -> None:
    stream = b"".join(events)
    stream = stream[: end % (len(stream) + 1)]
    body, out = EventBody(is_chunked=True), b""
    for piece in pieces(stream, cuts):
        out += body.feed(piece)
    content, is_whole = unframed(out + body.cut(LOST))
    assert is_whole
    whole = content.removesuffix(LOST)
    assert whole != content
    assert stream.startswith(whole)
    assert whole in {b"".join(events[:count]) for count in range(len(events) + 1)}
    assert len(stream) - len(whole) < max(map(len, events))


def test_whole_events_leave_at_once() -> None:
    body = EventBody(is_chunked=True)
    assert body.feed(b"data: 1\n\ndata: 2\n\nda") == b"12\r\ndata: 1\n\ndata: 2\n\n\r\n"
    assert body.feed(b"ta: 3\n") == b""
    assert unframed(body.feed(b"\n")) == (b"data: 3\n\n", False)


def test_after_the_last_event_only_the_framing_was_missing() -> None:
    for end in (b"\n", b"\r\n"):
        body = EventBody(is_chunked=True)
        body.feed(b"data: 1" + end * 2 + b"data: [DONE]" + end * 2)
        assert body.cut(LOST) == b"0\r\n\r\n"


def test_an_overlong_event_is_passed_on_and_closed_before_the_error() -> None:
    body = EventBody(is_chunked=True)
    out = b"".join(body.feed(b"data: " + b"a" * 100_000) for _ in range(5))
    assert len(out) > 200_000
    assert len(body._held) <= 256 * 1024
    content, _ = unframed(out + body.cut(LOST))
    assert content.endswith(b"a\n\n" + LOST)


def test_chunks_carry_what_was_read() -> None:
    body = ChunkedBody()
    assert body.feed(b"abc") + b"".join(body.finish()) == b"3\r\nabc\r\n0\r\n\r\n"
    assert body.cut(LOST) is None


async def stream(turn: Turn, events: list[bytes]) -> None:
    await turn.start_events()
    for event in events:
        await turn.chunk(event)
        await asyncio.sleep(0.005)


async def test_a_stream_passes_event_by_event(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    gate = asyncio.Event()

    async def script(turn: Turn) -> None:
        await turn.start_events()
        await turn.chunk(EVENTS[0])
        await gate.wait()
        await turn.chunk(EVENTS[-1])
        await turn.send(b"0\r\n\r\n")

    worker.script = script
    client = await front.connect()
    await client.send(request())
    head = await client.reader.readuntil(b"\r\n\r\n")
    assert b"content-type: text/event-stream; charset=utf-8\r\n" in head
    assert await client.reader.readuntil(b"}\n\n\r\n") == b"10\r\n" + EVENTS[0] + b"\r\n"
    gate.set()
    assert await client.reader.readuntil(b"0\r\n\r\n") == b"e\r\n" + EVENTS[-1] + b"\r\n0\r\n\r\n"
    # The connection goes on, and so does the worker's.
    await client.send(request("GET", "/livez", None))
    assert (await client.response()).status == 200
    client.close()


async def cut_after(front: FrontUnderTest, worker: ScriptedWorker, sent: list[bytes], target: str) -> Response:
    async def script(turn: Turn) -> None:
        await stream(turn, sent)
        turn.abort()

    worker.script = script
    client = await front.connect()
    await client.send(request(target=target))
    response = await client.response()
    assert response.is_whole
    assert await client.is_closed()
    client.close()
    return response


async def test_a_worker_that_dies_in_a_stream_is_told(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    response = await cut_after(front, worker, [*EVENTS[:3], b'data: {"n": '], "/v1/chat/completions")
    assert response.status == 200
    assert response.body.startswith(b"".join(EVENTS[:3]))
    error, done, nothing = response.body[len(b"".join(EVENTS[:3])) :].split(b"\n\n")
    assert (done, nothing) == (b"data: [DONE]", b"")
    assert json.loads(error.removeprefix(b"data: "))["error"]["code"] == "worker_lost"


async def test_the_messages_api_is_told_in_its_own_words(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    response = await cut_after(front, worker, [b'event: ping\ndata: {"type": "ping"}\n\n'], "/v1/messages")
    name, data = response.body.split(b"\n\n")[1].split(b"\n")
    assert name == b"event: error"
    error = json.loads(data.removeprefix(b"data: "))
    assert (error["type"], error["error"]["type"]) == ("error", "api_error")
    assert b"[DONE]" not in response.body


async def test_a_worker_that_dies_before_its_first_event_is_a_502(
    front: FrontUnderTest, worker: ScriptedWorker
) -> None:
    async def script(turn: Turn) -> None:
        await turn.start_events()
        await turn.chunk(b"data: {")
        turn.abort()

    worker.script = script
    response = await front.ask(request())
    assert (response.status, response.code) == (502, "worker_lost")


async def test_a_stream_that_was_done_is_not_called_lost(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    response = await cut_after(front, worker, EVENTS, "/v1/chat/completions")
    assert response.body == b"".join(EVENTS)


async def test_the_engines_own_last_words_pass(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    words = [EVENTS[0], b'data: {"error": {"message": "EngineCore died"}}\n\n', EVENTS[-1]]

    async def script(turn: Turn) -> None:
        await stream(turn, words)
        await turn.send(b"0\r\n\r\n")

    worker.script = script
    assert (await front.ask(request())).body == b"".join(words)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.integers(1, 10_000), max_size=12),
    st.lists(st.integers(1, 10_000), max_size=12),
    st.integers(0, 10_000),
    st.booleans(),
)
def test_any_chunking_of_requests_and_streams_is_the_same_to_both_ends(
    request_cuts: list[int], answer_cuts: list[int], end: int, is_cut: bool
) -> None:
    """Through the real front: the worker gets the same body, the client the same events or an honest end."""
    answer = b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in EVENTS) + b"0\r\n\r\n"
    sent = answer[: end % len(answer)] if is_cut else answer

    async def script(turn: Turn) -> None:
        await turn.start_events()
        for piece in pieces(sent, answer_cuts):
            await turn.send(piece)
            await asyncio.sleep(0)
        if is_cut:
            turn.abort()

    response, seen = uvloop.run(exchange(script, pieces(request(headers="X-A: b\r\n"), request_cuts)))
    assert seen.body == BODY
    assert seen.headers == [("Host", "front"), ("X-A", "b"), ("content-length", str(len(BODY)))]
    assert response.is_whole
    if response.status == 502:
        assert is_cut
        assert response.code == "worker_lost"
    elif response.body != b"".join(EVENTS):
        assert is_cut
        assert response.body.endswith(LOST)
        assert b"".join(EVENTS).startswith(response.body.removesuffix(LOST))


async def exchange(script: Script, request_pieces: list[bytes]) -> tuple[Response, Seen]:
    async with running_worker() as worker, running_front(worker) as front:
        worker.script = script
        client = await front.connect()
        for piece in request_pieces:
            await client.send(piece)
            await asyncio.sleep(0)
        response = await client.response()
        client.close()
        return response, worker.seen[0]


@pytest.mark.parametrize("piece", [b"", b"x" * 1000])
async def test_a_cut_answer_that_is_no_stream_is_not_taken_for_whole(
    front: FrontUnderTest, worker: ScriptedWorker, piece: bytes
) -> None:
    async def long_answer(turn: Turn) -> None:
        await turn.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n" + b"y" * 5000 + piece)
        await asyncio.sleep(0.05)
        turn.abort()

    async def chunked_answer(turn: Turn) -> None:
        await turn.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        await turn.chunk(b"y" * 5000 + piece)
        await asyncio.sleep(0.05)
        turn.abort()

    for script in (long_answer, chunked_answer):
        worker.script = script
        response = await front.ask(request())
        assert response.body == b"y" * 5000 + piece
        assert not response.is_whole


async def test_a_cut_short_answer_is_a_clean_502(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    async def script(turn: Turn) -> None:
        await turn.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{")
        await asyncio.sleep(0.02)
        turn.abort()

    worker.script = script
    response = await front.ask(request())
    assert (response.status, response.code) == (502, "worker_lost")


async def end_at_once(turn: Turn, *, in_one_read: bool) -> None:
    """As vLLM ends the stream of a request that is aborted before its first token."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
    body = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
    if in_one_read:
        await turn.send(head + body)
        return
    for part in (head, body[:-5], body[-5:]):
        await turn.send(part)
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("in_one_read", [True, False])
async def test_a_stream_that_ends_before_it_began_is_no_answer(
    front: FrontUnderTest, worker: ScriptedWorker, in_one_read: bool
) -> None:
    worker.script = functools.partial(end_at_once, in_one_read=in_one_read)
    client = await front.connect()
    for _ in range(2):
        await client.send(request())
        response = await client.response()
        assert (response.status, response.code, response.header("retry-after")) == (503, "aborted", "1")
    client.close()


@pytest.mark.parametrize("in_one_read", [True, False])
async def test_another_worker_answers_what_one_aborted_before_it_began(in_one_read: bool) -> None:
    async with running_worker() as worker, running_worker() as other, running_front(worker, other) as front:
        worker.script = functools.partial(end_at_once, in_one_read=in_one_read)
        assert [(await front.ask(request())).status for _ in range(6)] == [200] * 6
        assert worker.seen
