"""What costs a client nothing must not cost us much: bytes that are no body, bodies for nobody, answers that nobody reads."""

from __future__ import annotations

import asyncio
import gc
import resource
import socket
import time

import pytest

from tests.unit.front.conftest import until
from tests.unit.front.raw_client import BODY, CHAT, Client, request
from tests.unit.front.running_front import FrontUnderTest, running_front
from tests.unit.front.scripted_worker import ScriptedWorker, Turn, answer_json
from tests.volume import times

CHUNKED = f"POST {CHAT} HTTP/1.1\r\nHost: front\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
PROBE = b"GET /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


# ---- what is no body counts as a head ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (PROBE + b"0\r\nX-T: ", b"v" * 1448),  # a trailer without an end
        (PROBE + b"0\r\n", b"n" * 1448),  # a name of one
        (CHUNKED + chunk(b"{") + b"0\r\nX-T: ", b"v" * 1448),
        (PROBE + b"0\r\n", b"X: 1\r\n" * 200),  # many trailers
        (CHUNKED + b"1;a=", b"e" * 1448),  # a chunk's extension without an end
        (CHUNKED, b"1;a=" + b"e" * 1000 + b"\r\n{\r\n"),  # an extension for each chunk
        (CHUNKED, b"00000000000001\r\n{\r\n" * 80),  # zeros before a length
    ],
)
async def test_what_is_no_body_is_bounded_as_a_head_is(front: FrontUnderTest, head: bytes, piece: bytes) -> None:
    client = await front.connect()
    client.writer.write(head)
    sent, began = 0, time.process_time()
    response = asyncio.create_task(client.response())
    while not response.done() and sent < 20_000_000:
        client.writer.write(piece)
        sent += len(piece)
        await asyncio.sleep(0)
    refused = await asyncio.wait_for(response, 2)
    assert (refused.status, refused.code) == (431, "header_too_large")
    assert sent < 20_000_000
    assert time.process_time() - began < 2
    client.close()


async def test_a_body_in_a_million_chunks_is_no_head(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    """Frames of chunks are not counted, so that a client that writes every byte by itself is served."""
    body = b'{"model": "demo", "messages": ["' + b"x" * 200_000 + b'"]}'
    client = await front.connect()
    client.writer.write(
        CHUNKED + b"".join(chunk(body[at : at + 1]) for at in range(len(body))) + b"0\r\nX-T: 1\r\n\r\n"
    )
    assert (await client.response()).status == 200
    assert worker.seen[0].body == body
    await client.send(request())
    assert (await client.response()).status == 200
    client.close()


async def test_a_trailer_is_not_read_as_a_header(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    trailers = b"Host: evil/\r\nExpect: x\r\nUpgrade: websocket\r\nX-Api-Key: k\r\n"
    client = await front.connect()
    for _ in range(2):
        await client.send(CHUNKED + chunk(BODY) + b"0\r\n" + trailers + b"\r\n")
        assert (await client.response()).status == 200
    assert [seen.body for seen in worker.seen] == [BODY, BODY]
    assert [seen.header("content-length") for seen in worker.seen] == [str(len(BODY))] * 2
    client.close()


async def test_the_next_head_behind_a_long_body_is_no_long_head(front: FrontUnderTest) -> None:
    long, following = request(body=b'{"model": "demo", "x": "' + b"x" * 300_000 + b'"}'), request("GET", "/livez", None)
    client = await front.connect()
    client.writer.write(long + following[:30])
    assert (await client.response()).status == 200
    await asyncio.sleep(0.05)
    await client.send(following[30:])
    assert (await client.response()).status == 200
    client.close()


# ---- bodies that no worker gets ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "target"), [("GET", "/livez"), ("POST", "/ping"), ("GET", "/metrics"), ("OPTIONS", CHAT)]
)
async def test_bodies_for_nobody_take_no_room(worker: ScriptedWorker, method: str, target: str) -> None:
    async with running_front(worker, limits={"bodies_bytes": 100_000, "body_bytes": 100_000}) as front:
        clients = [await front.connect() for _ in range(8)]
        for client in clients:  # what is announced never comes to its end
            await client.send(f"{method} {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n".encode())
            await client.send(b"A" * 59_999)
        await asyncio.sleep(0.05)
        assert front.front._reception.bodies.count == 0
        assert (await front.ask(request())).status == 200
        for client in clients:
            await client.send(b"A")
            assert (await client.response()).status in (200, 204)
            client.close()
        long = await front.connect()
        await long.send(f"{method} {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 70000\r\n\r\n".encode())
        refused = await long.response()
        assert (refused.status, refused.code) == (413, "body_too_large")
        long.close()
        endless = await front.connect()
        await endless.send(f"{method} {target} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        for _ in range(10):
            endless.writer.write(chunk(b"A" * 10_000))
        assert (await endless.response()).status == 413
        endless.close()


async def test_a_probe_is_answered_where_there_is_no_room_for_bodies(worker: ScriptedWorker) -> None:
    async with running_front(worker, limits={"bodies_bytes": 1000, "body_bytes": 1000}) as front:
        stuck = await front.connect()
        await stuck.send(f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n".encode() + b"A" * 999)
        await until(lambda: front.front._reception.bodies.count == 999)
        assert (await front.ask(request("POST", "/ping", b"x" * 500))).status == 200
        stuck.close()


# ---- answers that nobody reads ----------------------------------------------------------------------------------


def stubborn(front: FrontUnderTest) -> socket.socket:
    """A client that does not read, and whose kernel takes little."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    return sock


async def held_bytes(front: FrontUnderTest) -> int:
    return sum(client.unsent_bytes for client in front.front._reception.clients)


@pytest.mark.parametrize("target", [CHAT, "/metrics", "/v1/models"])
async def test_a_client_that_reads_nothing_is_not_served_request_after_request(
    worker: ScriptedWorker, target: str
) -> None:
    """The engine's answers, the metrics, the front's own: whatever is asked for, a few of them are held at most."""

    async def long_answer(turn: Turn) -> None:
        await turn.json(200, "x" * 100_000)

    worker.script = long_answer
    one = request() if target == CHAT else request("GET", target, None)
    async with running_front(worker, write_stall_s=1.0) as front:
        front.front._reception.metrics.apart_s = 0
        loop, sock = asyncio.get_running_loop(), stubborn(front)
        await loop.sock_connect(sock, ("127.0.0.1", front.port))
        most, began = 0, time.monotonic()
        is_cut = False
        while time.monotonic() - began < 5 and not is_cut:
            try:
                await asyncio.wait_for(loop.sock_sendall(sock, one), 0.05)
            except TimeoutError:
                pass
            except ConnectionError:
                is_cut = True
            most = max(most, await held_bytes(front))
            await asyncio.sleep(0.005)
        assert most < 1_000_000
        assert is_cut or target != CHAT  # the short answers do not fill the kernel's room in that time
        sock.close()


async def test_a_client_that_reads_late_gets_all_its_answers(worker: ScriptedWorker) -> None:
    async def long_answer(turn: Turn) -> None:
        await turn.json(200, "x" * 300_000)

    worker.script = long_answer
    async with running_front(worker) as front:
        client = await front.connect()
        client.writer.write(request() * 10)
        await asyncio.sleep(0.5)
        for _ in range(10):
            response = await client.response()
            assert (response.status, len(response.body)) == (200, 300_002)
        await client.send(request("GET", "/livez", None))
        assert (await client.response()).status == 200
        client.close()


async def test_scraping_leaves_nothing_behind(worker: ScriptedWorker) -> None:
    async def numbers(turn: Turn) -> None:
        text = "".join(f'metric{{x="{number}"}} 1\n' for number in range(10_000)).encode()
        await turn.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n" % len(text) + text)

    worker.script = numbers
    async with running_front(worker) as front:
        front.front._reception.metrics.apart_s = 0
        client = await front.connect()
        gc.collect()
        gc.disable()  # what only it would find stays
        try:
            sizes, scrapes = [], times(10_000, 150)
            for round_ in range(scrapes):
                await client.send(request("GET", "/metrics", None))
                assert (await client.response()).status == 200
                if round_ in (50, scrapes - 1):
                    sizes.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        finally:
            gc.enable()
        assert sizes[1] - sizes[0] < 8_000, sizes  # KiB; each text has 200 KiB
        client.close()


async def test_an_answer_that_is_no_http_neither_stops_the_metrics_nor_stays_in_flight(
    front: FrontUnderTest, worker: ScriptedWorker
) -> None:
    async def odd(turn: Turn) -> None:
        await turn.send(b"HTTP/1.1 600 X\r\ncontent-length: 0\r\n\r\n")

    worker.script = odd
    for _ in range(70):
        assert (await front.ask(request())).status == 502
    worker.script = answer_json
    assert (await asyncio.wait_for(front.get("/metrics"), 3)).status == 200
    assert front.front._traffic.in_flight == 0


# ---- a client's leaving -----------------------------------------------------------------------------------------


async def test_a_client_that_sends_no_more_gets_its_answer(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    async def slow(turn: Turn) -> None:
        await asyncio.sleep(0.2)
        await answer_json(turn)

    worker.script = slow
    client = await front.connect()
    client.writer.write(request() + request("GET", "/livez", None))
    client.writer.write_eof()
    statuses = []
    for _ in range(3):
        response = await client.response()
        statuses.append(response.status)
    assert statuses == [102, 200, 200]
    assert response.header("connection") == "close"
    assert await client.is_closed()


@pytest.mark.parametrize("ahead", [0, 400_000])
async def test_a_client_that_leaves_before_its_answer_is_seen(worker: ScriptedWorker, ahead: int) -> None:
    """Also one that has sent so much ahead that nothing more of it is read."""
    left = asyncio.Event()

    async def silent(turn: Turn) -> None:
        if await turn.until_client_left(5):
            left.set()
        turn.keeps_open = False

    worker.script = silent
    async with running_front(worker) as front:
        client = await front.connect()
        client.writer.write(request() + (request(body=b"x" * ahead) if ahead else b""))
        await until(lambda: len(worker.seen) == 1)
        await asyncio.sleep(0.1)
        client.close()
        await asyncio.wait_for(left.wait(), 1)


async def test_go_on_is_said_when_it_is_that_requests_turn(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    client = await front.connect()
    waiting = f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(BODY)}\r\nExpect: 100-continue\r\n\r\n".encode()
    await client.send(request() + waiting)
    assert (await client.response()).status == 200
    assert (await client.response()).status == 100
    await client.send(BODY)
    assert (await client.response()).status == 200
    client.close()


# ---- RFC 9110 and 9112 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", ["none", "length", "chunks"])
async def test_an_offer_of_another_protocol_is_passed_over(
    front: FrontUnderTest, worker: ScriptedWorker, body: str
) -> None:
    """As Java's HttpClient offers h2c with every request (RFC 9110, section 7.8)."""
    offer = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
    raw = {
        "none": request("GET", "/livez", None, offer),
        "length": request(headers=offer),
        "chunks": CHUNKED[:-2] + offer.encode() + b"\r\n" + chunk(BODY[:5]) + chunk(BODY[5:]) + b"0\r\n\r\n",
    }[body]
    client = await front.connect()
    for _ in range(2):
        await client.send(raw + request("GET", "/readyz", None))
        assert [(await client.response()).status for _ in range(2)] == [200, 200]
        for byte in (raw[at : at + 1] for at in range(len(raw))):
            client.writer.write(byte)
            await asyncio.sleep(0)
        assert (await client.response()).status == 200
    assert all(seen.body == BODY and seen.header("upgrade") is None for seen in worker.seen)
    assert len(worker.seen) == (0 if body == "none" else 4)
    await client.send(request("GET", "/livez", None, offer.replace("Upgrade,", "close, Upgrade,")))
    assert (await client.response()).header("connection") == "close"
    client.close()


@pytest.mark.parametrize(
    ("target", "seen"),
    [(f"http://front{CHAT}", CHAT), (f"HTTPS://front:8000{CHAT}?a=b", f"{CHAT}?a=b")],
)
async def test_a_whole_url_is_its_path(front: FrontUnderTest, worker: ScriptedWorker, target: str, seen: str) -> None:
    assert (await front.ask(request(target=target))).status == 200
    assert worker.seen[0].target == seen


async def test_blanks_around_values_do_not_count(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    raw = (
        f"POST {CHAT} HTTP/1.1\r\nHost:  front\t \r\nContent-Length: {len(BODY)} \t\r\nConnection: keep-alive \r\n\r\n"
    )
    client = await front.connect()
    for _ in range(2):
        await client.send(raw.encode() + BODY)
        assert (await client.response()).status == 200
    client.close()


async def test_every_answer_of_the_front_has_a_date(front: FrontUnderTest) -> None:
    for target in ("/livez", "/v1/models", "/nothing", "/metrics"):
        assert (await front.get(target)).header("date").endswith(" GMT"), target


async def test_a_stream_is_kept_from_the_buffers_of_proxies(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    async def stream(turn: Turn) -> None:
        await turn.start_events()
        await turn.chunk(b"data: {}\n\n")
        await turn.chunk(b"data: [DONE]\n\n")
        await turn.send(b"0\r\n\r\n")

    worker.script = stream
    response = await front.ask(request())
    assert (response.header("x-accel-buffering"), response.header("cache-control")) == ("no", "no-cache")


# ---- web pages --------------------------------------------------------------------------------------------------

PAGE = "https://chat.example.com"


@pytest.mark.parametrize(("allowed", "said"), [([PAGE], PAGE), (["*"], "*")])
async def test_a_page_may_read_every_answer(worker: ScriptedWorker, allowed: list[str], said: str) -> None:
    async with running_front(worker, cors_origins=allowed, api_keys=["k"]) as front:
        origin = f"Origin: {PAGE}\r\n"
        key = f"{origin}Authorization: Bearer k\r\n"
        answers = [
            await front.ask(request(headers=key)),
            await front.ask(request(headers=key)),
            await front.get("/v1/models", key),
            await front.get("/livez", origin),
            await front.get("/metrics", origin),
            await front.get("/nothing", origin),
            await front.ask(request(headers=origin)),  # 401
            await front.ask(request(body=b"no", headers=key)),  # 400
            await front.ask(request(headers=key + "X: " + "x" * 70_000 + "\r\n")),  # 431
            await front.ask(request(body=None, headers=f"{key}Content-Length: 99999999\r\n")),  # 413
        ]
        assert [answer.header("access-control-allow-origin") for answer in answers] == [said] * len(answers)
        assert {seen.header("origin") for seen in worker.seen} == {None}
        ask = f"{origin}Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization, x-stainless-os\r\n"
        for target, methods in ((CHAT, "POST, OPTIONS"), ("/v1/models", "GET, HEAD, OPTIONS")):
            preflight = await front.ask(request("OPTIONS", target, None, ask))
            assert (preflight.status, preflight.header("access-control-allow-origin")) == (204, said)
            assert preflight.header("access-control-allow-methods") == methods
            assert preflight.header("access-control-allow-headers") == "authorization, x-stainless-os"


@pytest.mark.parametrize("allowed", [[], [PAGE]])
async def test_another_page_may_read_nothing(worker: ScriptedWorker, allowed: list[str]) -> None:
    async with running_front(worker, cors_origins=allowed) as front:
        for origin in ("https://evil.example", f"{PAGE}.evil.example", "null", "*"):
            for raw in (
                request(headers=f"Origin: {origin}\r\n"),
                request("OPTIONS", CHAT, None, f"Origin: {origin}\r\nAccess-Control-Request-Method: POST\r\n"),
                request("GET", "/v1/models", None, f"Origin: {origin}\r\n"),
            ):
                answer = await front.ask(raw)
                assert [name for name, _ in answer.headers if name.startswith("access-control")] == []


async def test_a_preflight_takes_no_place_of_a_request(worker: ScriptedWorker) -> None:
    async with running_front(hold_s=0) as front:
        front.routes(worker, state="starting", limits={"concurrent": 1}, hold_s=5)
        await front.settle()
        for _ in range(20):
            assert (await front.ask(request("OPTIONS", CHAT, None))).status == 204
        unknown: Client = await front.connect()
        await unknown.send(request("OPTIONS", "/v1/nothing", None))
        assert (await unknown.response()).status == 404
        unknown.close()


# ---- what the body says -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", [10, 1_200_000])
async def test_a_bug_in_reading_a_request_ends_it(
    front: FrontUnderTest, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch, padding: int
) -> None:
    def broken(*_: object) -> None:
        raise LookupError("nobody thought of this")

    monkeypatch.setattr("ichat.front.inquiry._judged", broken)
    body = b'{"model": "other", "x": "' + b"x" * padding + b'"}'
    client = await front.connect()
    for _ in range(2):
        await client.send(request(body=body))
        response = await asyncio.wait_for(client.response(), 3)
        assert (response.status, response.code) == (500, "internal_error")
        assert "nobody thought" not in response.body.decode()
    assert front.front._traffic.in_flight == 0
    client.close()


@pytest.mark.parametrize("first", [b'"demo"', b"null"])
async def test_a_long_body_with_two_models_is_refused(
    front: FrontUnderTest, worker: ScriptedWorker, first: bytes
) -> None:
    """The engine would take the last one, and so do we in a short body."""
    body = b'{"model": ' + first + b', "x": "' + b"x" * 1_200_000 + b'", "model": "other"}'
    response = await front.ask(request(body=body))
    assert (response.status, response.code) == (400, "invalid_body")
    assert "model: stands twice" in response.json()["error"]["message"]
    assert worker.seen == []


async def test_a_form_with_two_models_is_refused(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\n%b\r\n'
    body = part % b"demo" + part % b"other" + b"--b--\r\n"
    kind = "Content-Type: multipart/form-data; boundary=b\r\n"
    response = await front.ask(request(target="/v1/audio/transcriptions", body=body, headers=kind))
    assert (response.status, response.code) == (400, "invalid_body")
    assert worker.seen == []


@pytest.mark.parametrize("name", [b'""', b"null"])
async def test_an_empty_model_counts_as_none(front: FrontUnderTest, worker: ScriptedWorker, name: bytes) -> None:
    assert (await front.ask(request(body=b'{"model": ' + name + b"}"))).status == 200
    assert len(worker.seen) == 1


# ---- what an engine or a model lacks, and a server that is not ready yet ----------------------------------------


@pytest.mark.parametrize("pause_s", [None, 0.02])  # engines write head and body apart
@pytest.mark.parametrize(("status", "detail"), [(404, "Not Found"), (405, "Method Not Allowed")])
async def test_a_route_that_an_engine_lacks_is_told_in_the_documented_shape(
    front: FrontUnderTest, worker: ScriptedWorker, status: int, detail: str, pause_s: float | None
) -> None:
    async def lacking(turn: Turn) -> None:
        body = b'{"detail":"%b"}' % detail.encode()
        head = b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n" % (status, len(body))
        if pause_s is None:
            await turn.send(head + body)
            return
        await turn.send(head)
        await asyncio.sleep(pause_s)
        await turn.send(body)

    worker.script = lacking
    client = await front.connect()
    for _ in range(2):
        await client.send(request(target="/v1/embeddings"))
        response = await client.response()
        assert (response.status, response.code) == (404, "not_found")
        assert "/v1/embeddings: the engine does not offer this for model 'demo'" in response.json()["error"]["message"]
    client.close()


async def test_the_list_of_models_is_no_yes_before_one_has_been_ready(worker: ScriptedWorker) -> None:
    """Compose files and manifests for the engines' own servers take it for readiness."""
    async with running_front() as front:
        front.routes(worker, state="starting", words="weights")
        await front.settle()
        refused = await front.get("/v1/models")
        assert (refused.status, refused.code, refused.header("retry-after")) == (503, "model_loading", "2")
        assert (await front.get("/v1/models?state=all")).status == 200
        front.routes(worker)
        await front.settle()
        assert len((await front.get("/v1/models")).json()["data"]) == 1
        front.routes(worker, state="starting", words="weights")
        await front.settle()
        assert (await front.get("/v1/models")).json()["data"] == []
