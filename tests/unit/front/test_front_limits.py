"""What is not a plain request within the limits is refused, in words, and without cost."""

import asyncio
import time

import pytest

from tests.unit.front.raw_client import BODY, CHAT, Client, request
from tests.unit.front.running_front import FrontUnderTest, running_front
from tests.unit.front.scripted_worker import ScriptedWorker, running_worker

LINE = f"POST {CHAT} HTTP/1.1\r\n".encode()
HOST = b"Host: front\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(BODY)


@pytest.mark.parametrize(
    ("raw", "status", "code"),
    [
        (LINE + HOST + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n", 400, "invalid_request"),
        (LINE + HOST + LENGTH + LENGTH + b"\r\n" + BODY, 400, "invalid_request"),
        (LINE + HOST + b"Content-Length: -1\r\n\r\n", 400, "invalid_request"),
        (LINE + HOST + b"Content-Length: 1e3\r\n\r\n", 400, "invalid_request"),
        (LINE + HOST + b"Content-Length: 99999999999999999999999\r\n\r\n", 400, "invalid_request"),
        (LINE + HOST + b"Content-Length: 9999999999\r\n\r\n", 413, "body_too_large"),
        (LINE + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400, "invalid_request"),
        (LINE + HOST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "invalid_request"),
        (LINE + HOST + b"X: a\r\n folded\r\n\r\n", 400, "invalid_request"),
        (LINE + HOST + b"X : a\r\n\r\n", 400, "invalid_request"),
        (LINE + HOST + b"X: a\0b\r\n\r\n", 400, "invalid_request"),
        (LINE + LENGTH + b"\r\n" + BODY, 400, "invalid_request"),
        (LINE + HOST + HOST + LENGTH + b"\r\n" + BODY, 400, "invalid_request"),
        (LINE + b"Host: x/health?y=\r\n" + LENGTH + b"\r\n" + BODY, 400, "invalid_request"),
        (LINE + b"Host: a b\r\n\r\n", 400, "invalid_request"),
        (b"GET /livez HTTP/2.0\r\nHost: a\r\n\r\n", 400, "invalid_request"),
        (b"GET /livez\r\n\r\n", 400, "invalid_request"),
        (b"GET ftp://front/livez HTTP/1.1\r\nHost: front\r\n\r\n", 400, "invalid_request"),
        (b"GET * HTTP/1.1\r\nHost: front\r\n\r\n", 400, "invalid_request"),
        (b"CONNECT front:80 HTTP/1.1\r\nHost: front\r\n\r\n", 400, "invalid_request"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "invalid_request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "invalid_request"),
        (b"\x00\x01\x02\x03", 400, "invalid_request"),
        (
            b"GET /v1/realtime HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            400,
            "invalid_request",
        ),
        (LINE + HOST + LENGTH + b"Content-Encoding: gzip\r\n\r\n" + BODY, 415, "unsupported_encoding"),
        (LINE + HOST + LENGTH + b"Expect: miracles\r\n\r\n" + BODY, 417, "invalid_request"),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, "url_too_long"),
        (b"GET /" + b"a" * 1_000_000, 414, "url_too_long"),
        (LINE + HOST + b"X: 1\r\n" * 101 + b"\r\n", 431, "header_too_large"),
        (LINE + HOST + b"TE: 1\r\n" * 101 + b"\r\n", 431, "header_too_large"),
        (LINE + HOST + b"X: 1\r\n" * 20_000 + b"\r\n", 431, "header_too_large"),
        (LINE + HOST + b"X: " + b"a" * 70_000 + b"\r\n\r\n", 431, "header_too_large"),
        (LINE + HOST + b"Keep-Alive: " + b"a" * 70_000 + b"\r\n\r\n", 431, "header_too_large"),
        (LINE + HOST + b"X: " + b"a" * 1_000_000, 431, "header_too_large"),
        (request("GET", "/livez", None) * 40, 400, "invalid_request"),
    ],
)
async def test_what_is_no_request_is_refused_and_the_connection_ends(
    front: FrontUnderTest, worker: ScriptedWorker, raw: bytes, status: int, code: str
) -> None:
    client = await front.connect()
    client.writer.write(raw)
    response = await client.response()
    while response.status == 200:  # those before it that were in order
        response = await client.response()
    assert (response.status, response.code) == (status, code)
    assert response.header("connection") == "close"
    assert await client.is_closed()
    assert worker.seen == []
    client.close()


@pytest.mark.parametrize("host", ["front", "front:8000", "[::1]:80", "127.0.0.1", "", "xn--a.b_c"])
async def test_hosts_are_accepted(front: FrontUnderTest, host: str) -> None:
    assert (await front.ask(f"GET /livez HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())).status == 200


@pytest.mark.parametrize("text", [b"123", b"[1]", b"nul", b"", b'{"model": "demo"', b'{"model": 5}', b"\xff"])
async def test_what_is_no_json_object_is_refused_and_the_connection_goes_on(
    front: FrontUnderTest, worker: ScriptedWorker, text: bytes
) -> None:
    client = await front.connect()
    for _ in range(2):
        await client.send(request(body=text))
        response = await client.response()
        assert (response.status, response.code) == (400, "invalid_body")
    await client.send(request())
    assert (await client.response()).status == 200
    assert len(worker.seen) == 1
    client.close()


async def test_a_body_is_refused_before_it_is_read(worker: ScriptedWorker) -> None:
    async with running_front(worker, limits={"body_bytes": 1000}) as front:
        response = await front.ask(LINE + HOST + b"Content-Length: 1001\r\n\r\n")
        assert (response.status, response.code) == (413, "body_too_large")


async def test_a_body_without_a_length_is_refused_when_it_has_grown_too_long(worker: ScriptedWorker) -> None:
    async with running_front(worker, limits={"body_bytes": 100_000}) as front:
        client = await front.connect()
        await client.send(LINE + HOST + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(20):
            client.writer.write(b"2710\r\n" + b"a" * 10_000 + b"\r\n")
        response = await client.response()
        assert (response.status, response.code) == (413, "body_too_large")
        assert await client.is_closed()
        client.close()


async def test_a_client_that_still_sends_gets_to_read_its_refusal(worker: ScriptedWorker) -> None:
    async with running_front(worker, limits={"body_bytes": 1000}) as front:
        for _ in range(20):
            client = await front.connect()
            client.writer.write(LINE + HOST + b"Content-Length: 5000000\r\n\r\n" + b"a" * 2_000_000)
            assert (await client.response()).status == 413
            client.close()


async def test_a_client_that_asks_first_is_told_to_go_on(front: FrontUnderTest) -> None:
    client = await front.connect()
    await client.send(LINE + HOST + LENGTH + b"Expect: 100-continue\r\n\r\n")
    assert (await client.response()).status == 100
    await client.send(BODY)
    assert (await client.response()).status == 200
    client.close()


@pytest.mark.parametrize(("target", "status"), [("/nowhere", 404), (CHAT, 413)])
async def test_a_client_that_asks_first_is_refused_first(worker: ScriptedWorker, target: str, status: int) -> None:
    async with running_front(worker, limits={"body_bytes": 10}) as front:
        head = request(
            "POST", target, None, f"Content-Length: {9 if status == 404 else 11}\r\nExpect: 100-continue\r\n"
        )
        assert (await front.ask(head)).status == status


async def test_a_head_that_does_not_arrive_in_time_is_refused(worker: ScriptedWorker) -> None:
    async with running_front(worker, receive_headers_s=0.15) as front:
        client = await front.connect()
        began = time.monotonic()

        async def trickle() -> None:
            for byte in LINE + HOST * 50:
                client.writer.write(bytes([byte]))
                await asyncio.sleep(0.01)

        task = asyncio.create_task(trickle())
        response = await client.response()
        assert (response.status, response.code) == (408, "request_timeout")
        assert 0.1 < time.monotonic() - began < 1.0
        assert await client.is_closed()
        task.cancel()
        client.close()


async def test_a_body_that_does_not_arrive_in_time_is_refused(worker: ScriptedWorker) -> None:
    async with running_front(worker, receive_body_s=0.15) as front:
        client = await front.connect()
        await client.send(LINE + HOST + b"Content-Length: 1000\r\n\r\nabc")
        response = await client.response()
        assert (response.status, response.code) == (408, "request_timeout")
        client.close()


async def test_a_long_body_has_a_second_more_for_each_64_kib(worker: ScriptedWorker) -> None:
    async with running_front(worker, receive_body_s=0.1) as front:
        client = await front.connect()
        body = b'{"x": "' + b"a" * 70_000 + b'"}'
        await client.send(request(body=None, headers=f"Content-Length: {len(body)}\r\n") + body[:-1])
        await asyncio.sleep(0.4)
        await client.send(body[-1:])
        assert (await client.response()).status == 200
        client.close()


async def test_an_idle_connection_is_closed_without_a_word(worker: ScriptedWorker) -> None:
    async with running_front(worker, idle_s=0.1) as front:
        fresh, used = await front.connect(), await front.connect()
        await used.send(request())
        assert (await used.response()).status == 200
        for client in (fresh, used):
            assert await client.reader.read() == b""
            client.close()


async def test_thousands_of_slow_clients_do_not_keep_the_others_waiting(worker: ScriptedWorker) -> None:
    async with running_front(worker, receive_headers_s=0.3) as front:
        slow = [await front.connect() for _ in range(500)]
        for client in slow:
            client.writer.write(LINE)
        for _ in range(20):
            began = time.monotonic()
            assert (await front.ask(request())).status == 200
            assert time.monotonic() - began < 0.25
        statuses = {(await client.response()).status for client in slow}
        assert statuses == {408}
        for client in slow:
            client.close()


async def test_connections_beyond_the_cap_get_503_and_probes_an_answer(worker: ScriptedWorker) -> None:
    async with running_front(worker, limits={"connections": 3}) as front:
        held = [await front.connect() for _ in range(3)]
        for client in held:
            await client.send(request())
            assert (await client.response()).status == 200
        response = await front.ask(request())
        assert (response.status, response.code, response.header("retry-after")) == (503, "too_many_connections", "1")
        assert (await front.get("/readyz")).status == 200
        held.pop().close()
        await asyncio.sleep(0.05)
        assert (await front.ask(request())).status == 200
        for client in held:
            client.close()


async def test_connections_far_beyond_the_cap_are_refused_not_reset(worker: ScriptedWorker) -> None:
    async with running_front(worker, limits={"connections": 2}) as front:
        clients = [await front.connect() for _ in range(100)]
        await asyncio.sleep(0.05)
        for client in clients[70:]:
            assert (await client.response()).status == 503
            assert await client.is_closed()
        for client in clients:
            client.close()


async def test_what_a_client_sends_ahead_is_bounded(worker: ScriptedWorker) -> None:
    release = asyncio.Event()

    async def script(turn) -> None:
        await release.wait()
        await turn.json(200, {})

    worker.script = script
    async with running_front(worker) as front:
        client = await front.connect()
        await client.send(request())
        while not worker.seen:
            await asyncio.sleep(0.01)
        block = request(body=b'{"x": "' + b"a" * 100_000 + b'"}')
        client.writer.write(block * 80)
        await asyncio.sleep(0.1)
        (connection,) = front.front._reception.clients
        assert len(connection._early) < 1_000_000
        release.set()
        for _ in range(81):
            assert (await client.response()).status == 200
        client.close()


async def test_a_hundred_thousand_brackets_do_not_stall_the_loop() -> None:
    async with running_worker() as worker, running_front(worker) as front:
        deep = b'{"a": ' + b"[" * 100_000
        response = await front.ask(request(body=deep))
        assert (response.status, response.code) == (400, "invalid_body")


async def test_a_long_body_does_not_stall_the_loop(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    turns = []

    async def watch() -> None:
        """What each turn of the loop costs, in CPU: how busy the machine is must not matter."""
        while True:
            began = time.thread_time()
            await asyncio.sleep(0)
            turns.append(time.thread_time() - began)

    body = b'{"messages": [' + b'"a", ' * 1_500_000 + b'1], "model": "nobody"}'
    watching = asyncio.create_task(watch())
    client = await Client.connect(front.port)
    response = await front.ask(request(body=body))
    watching.cancel()
    client.close()
    assert (response.status, response.code) == (404, "model_not_found")
    assert max(turns) < 0.05
    assert worker.seen == []
