"""What a client sends reaches the worker as it is, and what the worker answers reaches the client."""

import json

import pytest

from tests.unit.front.raw_client import BODY, CHAT, request
from tests.unit.front.running_front import FrontUnderTest
from tests.unit.front.scripted_worker import ScriptedWorker, Turn


async def test_a_request_reaches_the_worker_byte_by_byte(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    body = b'{"model": "demo",  "x":\t[1, 2.50, "\\u00e9"], "unknown_field": {}}'
    headers = "X-Custom:  Spaced Value\r\nauthorization: Bearer k\r\nContent-Type: application/json\r\n"
    response = await front.ask(request(target=CHAT + "?a=%20b&c", body=body, headers=headers))
    assert response.status == 200
    (seen,) = worker.seen
    assert (seen.method, seen.target, seen.body) == ("POST", CHAT + "?a=%20b&c", body)
    assert seen.headers == [
        ("Host", "front"),
        ("X-Custom", "Spaced Value"),
        ("authorization", "Bearer k"),
        ("Content-Type", "application/json"),
        ("content-length", str(len(body))),
    ]


async def test_headers_for_one_hop_are_not_passed_on(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    headers = (
        "Connection: keep-alive, X-Mine\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\nTE: trailers\r\nTrailer: X\r\n"
        "Proxy-Connection: a\r\nX-Body-Compressed: zstd\r\nX-Yours: 2\r\n"
    )
    assert (await front.ask(request(headers=headers))).status == 200
    assert [name for name, _ in worker.seen[0].headers] == ["Host", "X-Yours", "content-length"]


async def test_a_chunked_request_arrives_whole_with_its_length(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    client = await front.connect()
    await client.send(request(body=None, headers="Transfer-Encoding: chunked\r\n"))
    for piece in (BODY[:5], BODY[5:6], BODY[6:]):
        await client.send(b"%x;ext=1\r\n%b\r\n" % (len(piece), piece))
    await client.send(b"0\r\nX-Trailer: 1\r\n\r\n")
    assert (await client.response()).status == 200
    assert worker.seen[0].body == BODY
    assert worker.seen[0].header("transfer-encoding") is None
    client.close()


async def test_an_answer_reaches_the_client_as_it_is(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    async def script(turn: Turn) -> None:
        await turn.send(
            b"HTTP/1.1 200 OK\r\ndate: today\r\nserver: uvicorn\r\nX-Request-Id: 7\r\nset-cookie: a\r\nset-cookie: b\r\n"
            b"content-length: 2\r\nContent-Type: application/json\r\nConnection: keep-alive\r\n\r\n{}"
        )

    worker.script = script
    response = await front.ask(request())
    assert (response.status, response.body) == (200, b"{}")
    assert sorted(response.headers) == sorted(
        [
            ("date", "today"),
            ("server", "uvicorn"),
            ("X-Request-Id", "7"),
            ("set-cookie", "a"),
            ("set-cookie", "b"),
            ("content-length", "2"),
            ("Content-Type", "application/json"),
        ]
    )


@pytest.mark.parametrize("size", [0, 1, 1000, 256 * 1024, 256 * 1024 + 1, 3_000_000])
async def test_a_body_of_any_length_passes(front: FrontUnderTest, worker: ScriptedWorker, size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)

    async def script(turn: Turn) -> None:
        await turn.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        await turn.send(data[:size])

    worker.script = script
    client = await front.connect()
    for _ in range(3):
        await client.send(request())
        response = await client.response()
        assert response.is_whole
        assert response.body == data[:size]
    assert worker.connections == 1
    client.close()


async def test_a_chunked_answer_that_is_no_stream_of_events_passes(
    front: FrontUnderTest, worker: ScriptedWorker
) -> None:
    async def script(turn: Turn) -> None:
        await turn.send(b"HTTP/1.1 200 OK\r\ncontent-type: audio/wav\r\ntransfer-encoding: chunked\r\n\r\n")
        for piece in (b"RIFF", b"\n\n\0", b"end"):
            await turn.chunk(piece)
        await turn.send(b"0\r\n\r\n")

    worker.script = script
    response = await front.ask(request())
    assert (response.body, response.is_whole) == (b"RIFF\n\n\0end", True)


async def test_statuses_without_a_body_pass(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    async def script(turn: Turn) -> None:
        await turn.send(b"HTTP/1.1 204 No Content\r\nx-a: b\r\n\r\n")

    worker.script = script
    client = await front.connect()
    for _ in range(2):
        await client.send(request())
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert head == b"HTTP/1.1 204 No Content\r\nx-a: b\r\n\r\n"
    client.close()


async def test_announcements_before_the_answer_are_swallowed(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    async def script(turn: Turn) -> None:
        await turn.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n")
        await turn.json(200, {})

    worker.script = script
    response = await front.ask(request())
    assert response.status == 200
    assert response.header("link") is None


async def test_the_engines_refusals_pass_with_their_words(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    async def script(turn: Turn) -> None:
        await turn.json(429, {"error": {"message": "too busy"}}, "retry-after: 3\r\n")

    worker.script = script
    response = await front.ask(request())
    assert (response.status, response.json()["error"]["message"]) == (429, "too busy")
    assert response.header("retry-after") == "3"


async def test_an_answer_that_ends_with_its_connection_passes(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    async def script(turn: Turn) -> None:
        await turn.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\nopen end")
        turn.keeps_open = False

    worker.script = script
    response = await front.ask(request())
    assert (response.body, response.header("connection")) == (b"open end", "close")


async def test_connections_to_the_worker_are_used_again_the_last_one_first(
    front: FrontUnderTest, worker: ScriptedWorker
) -> None:
    clients = [await front.connect() for _ in range(3)]
    for client in clients * 5:
        await client.send(request())
        assert (await client.response()).status == 200
    assert worker.connections == 1
    for client in clients:
        client.close()


async def test_an_answer_nobody_asked_for_never_becomes_somebodys_answer(
    front: FrontUnderTest, worker: ScriptedWorker
) -> None:
    async def script(turn: Turn) -> None:
        number = len(worker.seen)
        body = json.dumps({"n": number}).encode()
        await turn.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        await turn.send(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbad")

    worker.script = script
    for number in range(1, 6):
        response = await front.ask(request())
        assert response.json() == {"n": number}


async def test_http_1_0_is_served(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    client = await front.connect()
    head = f"POST {CHAT} HTTP/1.0\r\nContent-Length: {len(BODY)}\r\n"
    await client.send(f"{head}Connection: keep-alive\r\n\r\n".encode() + BODY)
    response = await client.response()
    assert response.header("connection") == "keep-alive"
    await client.send(f"{head}\r\n".encode() + BODY)
    response = await client.response()
    assert (response.status, response.header("connection")) == (200, "close")
    assert await client.is_closed()
    assert worker.seen[0].header("host") == "localhost"


async def test_http_1_0_gets_events_without_chunks(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    async def script(turn: Turn) -> None:
        await turn.start_events()
        await turn.chunk(b"data: 1\n\n")
        await turn.chunk(b"data: [DONE]\n\n")
        await turn.send(b"0\r\n\r\n")

    worker.script = script
    response = await front.ask(f"POST {CHAT} HTTP/1.0\r\nContent-Length: {len(BODY)}\r\n\r\n".encode() + BODY)
    assert response.body == b"data: 1\n\ndata: [DONE]\n\n"
    assert response.header("transfer-encoding") is None


async def test_requests_sent_ahead_are_answered_in_order(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    async def script(turn: Turn) -> None:
        await turn.json(200, {"target": turn.seen.target})

    worker.script = script
    client = await front.connect()
    targets = [f"{CHAT}?{number}" for number in range(8)]
    await client.send(b"".join(request(target=target) for target in targets[:5]) + request("GET", "/livez", None))
    await client.send(b"".join(request(target=target) for target in targets[5:]))
    for target in targets[:5]:
        assert (await client.response()).json() == {"target": target}
    assert (await client.response()).body == b"alive\n"
    for target in targets[5:]:
        assert (await client.response()).json() == {"target": target}
    client.close()


async def test_a_get_has_no_length_towards_the_worker(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    assert (await front.get("/get_server_info")).status == 200
    assert worker.seen[0].headers == [("Host", "front")]
