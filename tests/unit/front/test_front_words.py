"""What clients, proxies and people are told who ask for something in a way that is nearly right."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from tests.unit.front.raw_client import BODY, CHAT, request
from tests.unit.front.running_front import FrontUnderTest, running_front
from tests.unit.front.scripted_worker import ScriptedWorker, Turn

KEYS = {"message", "type", "param", "code"}


# ---- a slash at the end -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "target", "location"),
    [
        ("POST", "/v1/chat/completions/", "../completions"),
        ("POST", "/v1/chat/completions/?model=demo", "../completions"),
        ("POST", "/v1/embeddings///", "../../../embeddings"),
        ("GET", "/v1/models/", "../models"),
        ("GET", "/health/", "../health"),
        ("GET", "/v1/responses/resp_1/", "../resp_1"),
        ("GET", "/v1/chat/completions/", "../completions"),
    ],
)
async def test_a_slash_at_the_end_is_sent_to_the_path_without(
    front: FrontUnderTest, worker: ScriptedWorker, method: str, target: str, location: str
) -> None:
    """As the engines do it. The way is relative, so that it holds behind a proxy that cuts off a prefix."""
    response = await front.ask(request(method, target, BODY if method == "POST" else None))
    query = "?model=demo" if "?" in target else ""
    assert (response.status, response.code, response.header("location")) == (307, "redirected", location + query)
    assert worker.seen == []


@pytest.mark.parametrize("target", ["//", "/nothing/", "/v1/models//x/", "/sleep/", "//v1/chat/completions/"])
async def test_a_slash_behind_what_is_not_offered_is_not_found(front: FrontUnderTest, target: str) -> None:
    response = await front.get(target)
    assert response.status == 404
    assert response.header("location") is None


async def test_a_long_body_sent_to_a_slash_is_told_at_its_head(front: FrontUnderTest) -> None:
    client = await front.connect()
    await client.send(b"POST /v1/embeddings/ HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\n")
    assert (await client.response()).status == 307
    client.close()


# ---- what is no JSON --------------------------------------------------------------------------------------------

LONG = '{"model": "demo", "x": "' + "x" * 2_000_000 + '"}'


@pytest.mark.parametrize("text", [BODY.decode(), " \n" + BODY.decode(), LONG])
@pytest.mark.parametrize(
    ("encoding", "words"),
    [("utf-8-sig", "byte order mark"), ("utf-16", "UTF-16"), ("utf-16-le", "UTF-16"), ("utf-16-be", "UTF-16"),
     ("utf-32", "UTF-"), ("utf-32-be", "UTF-32")],
)  # fmt: skip
async def test_another_encoding_is_told_by_its_name(
    front: FrontUnderTest, worker: ScriptedWorker, text: str, encoding: str, words: str
) -> None:
    response = await front.ask(request(body=text.encode(encoding)))
    assert (response.status, response.code) == (400, "invalid_body")
    message = response.json()["error"]["message"]
    assert words in message
    assert "UTF-8" in message
    assert worker.seen == []


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\ndemo\r\n--x--',
        ),
        ("application/x-www-form-urlencoded", b"model=demo&prompt=hi"),
        ("Multipart/Form-Data; boundary=x", b"--x--" + b"y" * 2_000_000),
    ],
)
async def test_a_form_where_json_is_expected_is_told_by_its_type(
    front: FrontUnderTest, content_type: str, body: bytes
) -> None:
    response = await front.ask(request(body=body, headers=f"Content-Type: {content_type}\r\n"))
    assert (response.status, response.code) == (400, "invalid_body")
    message = response.json()["error"]["message"]
    assert message.startswith("Content-Type: " + content_type.split(";", maxsplit=1)[0].lower())
    assert "application/json" in message


async def test_json_under_curls_own_type_is_served(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    """`curl -d` says that it sends a form; what the engines make of it is theirs to say."""
    header = "Content-Type: application/x-www-form-urlencoded\r\n"
    assert (await front.ask(request(body=b"\n" + BODY, headers=header))).status == 200
    assert worker.seen[0].body == b"\n" + BODY


# ---- errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "status", "param"),
    [
        (request(body=b'{"model": "nope"}'), 404, "model"),
        (request(body=b'{"model": 5}'), 400, "model"),
        (request(body=b"["), 400, None),
        (request("GET", "/nothing", None), 404, None),
        (request("GET", CHAT, None), 405, None),
        (request("GET", "/v1/models?state=odd", None), 400, "state"),
        (request("GET", "/v1/models/nope", None), 404, "model"),
        (b"GET / HTTP/3.9\r\n\r\n", 400, None),
        (request("POST", "/v1/embeddings", b'{"model": 5}'), 400, "model"),
        (request(body=LONG.replace('"demo"', "5").encode()), 400, "model"),
    ],
)
async def test_errors_have_all_four_keys_of_openais(
    front: FrontUnderTest, data: bytes, status: int, param: str | None
) -> None:
    response = await front.ask(data)
    assert response.status == status
    error = response.json()["error"]
    assert set(error) == KEYS
    assert error["param"] == param


@pytest.mark.parametrize(
    ("given", "said"),
    [("abc-1", "abc-1"), (None, None), ("x" * 200, None), ("a b", None), ("", None)],
)
async def test_a_refusal_is_found_in_the_log_by_its_id(
    front: FrontUnderTest, caplog: pytest.LogCaptureFixture, given: str | None, said: str | None
) -> None:
    caplog.set_level(logging.DEBUG, "ichat.front")
    headers = "" if given is None else f"X-Request-Id: {given}\r\n"
    for data in (request(body=b"[", headers=headers), request("GET", "/nothing", None, headers)):
        response = await front.ask(data)
        name = response.header("x-request-id")
        assert name == said if said else len(str(name)) == 32
        assert f"request_id={name} status={response.status} code={response.code}" in caplog.text


async def test_bytes_that_are_no_request_have_an_id_too(front: FrontUnderTest) -> None:
    assert len(str((await front.ask(b"nonsense\r\n\r\n")).header("x-request-id"))) == 32


async def test_an_engines_own_id_stays_the_only_one(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    async def fail(turn: Turn) -> None:
        await turn.json(500, {}, "X-Request-Id: theirs\r\n")

    worker.script = fail
    response = await front.ask(request(headers="X-Request-Id: ours\r\n"))
    assert [value for name, value in response.headers if name.lower() == "x-request-id"] == ["theirs"]


async def test_what_a_worker_had_read_is_not_advised_to_be_sent_again(
    front: FrontUnderTest, worker: ScriptedWorker
) -> None:
    async def begin_and_end(turn: Turn) -> None:
        await turn.start_events()
        await turn.chunk(b"data: {}\n\n")
        turn.abort()

    worker.script = begin_and_end
    body = (await front.ask(request())).body
    error = json.loads(body.split(b"data: ")[2])["error"]
    assert error["code"] == "worker_lost"
    assert "its engine ended the answer" in error["message"]
    assert "Send it again" not in error["message"]
    assert "may be the cause" in error["message"]


async def test_what_no_worker_had_read_may_be_sent_again(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    await worker.stop()
    response = await front.ask(request())
    assert (response.status, response.code) == (502, "worker_lost")
    assert "send it again" in response.json()["error"]["message"]


# ---- other servers' paths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/", "/health_generate"])
async def test_other_servers_probes_are_as_true_as_readiness(worker: ScriptedWorker, target: str) -> None:
    async with running_front(api_keys=["k"]) as front:
        front.routes(state="starting", words="weights")
        await front.settle()
        loading = await front.get(target)
        assert (loading.status, loading.header("retry-after")) == (503, "2")
        assert b"loading demo: weights" in loading.body
        front.routes(worker)
        await front.settle()
        ready = await front.get(target)
        assert ready.status == 200
        assert b"ready: demo" in ready.body
        head = await front.connect()
        await head.send(request("HEAD", target, None))
        assert (await head.reader.readline()).startswith(b"HTTP/1.1 200 ")
        head.close()


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("/flush_cache", "flush_cache of the admin port"),
        ("/reset_prefix_cache", "flush_cache of the admin port"),
        ("/v1/load_lora_adapter", "load_lora of the admin port"),
        ("/abort_request", "Close the request's own connection"),
        ("/inference/v1/abort_requests", "Close the request's own connection"),
        ("/api/chat", "Use /v1/chat/completions"),
        ("/unheard_of", "nothing is offered"),
    ],
)
async def test_who_asks_for_what_changes_an_engine_is_told_what_to_use(
    front: FrontUnderTest, target: str, words: str
) -> None:
    response = await front.ask(request("POST", target, b"{}"))
    assert (response.status, response.code) == (404, "not_found")
    assert words in response.json()["error"]["message"]


# ---- metrics in a loop ------------------------------------------------------------------------------------------


async def test_who_asks_for_metrics_in_a_loop_costs_a_worker_one_answer_in_a_second(worker: ScriptedWorker) -> None:
    async with running_front(worker) as front:
        desk = front.front._reception.metrics
        desk.apart_s = 0.1
        loop, asked = asyncio.get_running_loop(), 0
        client, began = await front.connect(), asyncio.get_running_loop().time()
        while loop.time() - began < 0.5:
            await client.send(request("GET", "/metrics", None))
            assert (await client.response()).status == 200
            asked += 1
        client.close()
        rounds = sum(seen.target == "/metrics" for seen in worker.seen)
        assert desk.burst <= rounds <= desk.burst + 7, (rounds, asked)


async def test_who_waits_for_metrics_gets_the_numbers_of_now(front: FrontUnderTest) -> None:
    """Numbers are never kept: a wait makes them newer, not older."""
    desk = front.front._reception.metrics
    desk.apart_s, desk.burst = 0.2, 1
    for _ in range(2):
        await front.get("/metrics")
    asking = asyncio.create_task(front.get("/metrics"))
    await asyncio.sleep(0.02)
    assert not asking.done()
    assert (await front.ask(request())).status == 200
    text = (await asking).body.decode()
    assert 'status="2xx"} 1' in text
    assert "ichat_front_requests_total" in text
