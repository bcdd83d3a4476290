"""Which paths there are, who answers them, and what must never be reached."""

import asyncio
from collections.abc import Callable

import pytest

from tests.unit.front.raw_client import CHAT, request
from tests.unit.front.running_front import FrontUnderTest, running_front
from tests.unit.front.scripted_worker import Script, ScriptedWorker, Turn


async def endless(turn: Turn) -> None:
    await turn.start_events()
    while True:
        await turn.chunk(b"data: {}\n\n")
        await asyncio.sleep(0.02)


async def never(turn: Turn) -> None:
    await turn.until_client_left(30)
    turn.keeps_open = False


async def soon(is_it: Callable[[], bool]) -> bool:
    for _ in range(200):
        if is_it():
            return True
        await asyncio.sleep(0.005)
    return False


async def test_metrics_are_the_fronts_followed_by_the_workers(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    async def script(turn: Turn) -> None:
        if turn.seen.target == "/metrics":
            text = b"# TYPE engine_tokens counter\nengine_tokens 5\n"
            await turn.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(text), text))
        else:
            await turn.json(422, {})

    worker.script = script
    await front.ask(request())
    await front.ask(request(body=b"["))
    text = (await front.get("/metrics")).body.decode()
    assert 'ichat_front_refused_total{process="0",model="",key="",code="invalid_body"} 1\n' in text
    assert text.endswith('# TYPE engine_tokens counter\nengine_tokens{ichat_model="demo",ichat_instance="demo/0"} 5\n')


@pytest.mark.parametrize("script", [never, endless])
async def test_metrics_do_not_wait_for_a_worker_for_long(worker: ScriptedWorker, script: Script) -> None:
    worker.script = script
    async with running_front(worker, connect_s=0.1) as front:
        text = (await front.get("/metrics")).body
        assert b'ichat_front_connections{process="0"} 1\n' in text
        assert b"ichat_front_silent_workers 1\n" in text
        assert await soon(lambda: worker.open_connections == 0)


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/sleep"),
        ("POST", "/wake_up"),
        ("POST", "/v1/load_lora_adapter"),
        ("POST", "/load_lora_adapter"),
        ("POST", "/start_profile"),
        ("POST", "/flush_cache"),
        ("POST", "/reset_prefix_cache"),
        ("POST", "/update_weights"),
        ("POST", "/update_weights_from_disk"),
        ("POST", "/collective_rpc"),
        ("POST", "/abort_request"),
        ("POST", "/abort_requests"),
        ("POST", "/pause"),
        ("POST", "/pause_generation"),
        ("POST", "/scale_elastic_ep"),
        ("POST", "/release_memory_occupation"),
        ("GET", "/get_weights_by_name"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("POST", "//v1/chat/completions"),
        ("POST", "/v1/%63hat/completions"),
        ("POST", "/V1/chat/completions"),
        ("POST", "/livez/../v1/chat/completions"),
        ("GET", "/v1/responses/../../metrics"),
    ],
)
async def test_what_controls_an_engine_is_not_offered(
    front: FrontUnderTest, worker: ScriptedWorker, method: str, target: str
) -> None:
    response = await front.ask(request(method, target, b"{}"))
    assert (response.status, response.code) == (404, "not_found")
    assert worker.seen == []


@pytest.mark.parametrize(
    ("method", "target", "allow"), [("GET", CHAT, "POST, OPTIONS"), ("POST", "/livez", "GET, HEAD, OPTIONS")]
)
async def test_the_wrong_method_is_told_the_right_one(
    front: FrontUnderTest, method: str, target: str, allow: str
) -> None:
    response = await front.ask(request(method, target, b"{}"))
    assert (response.status, response.code, response.header("allow")) == (405, "method_not_allowed", allow)


@pytest.mark.parametrize(
    ("method", "target"),
    [("POST", "/generate"), ("PUT", "/generate"), ("POST", "/encode"), ("GET", "/get_server_info"), ("GET", "/get_model_info"),
     ("POST", "/v1/embeddings"), ("POST", "/v1/rerank"), ("POST", "/tokenize"), ("POST", "/v1/messages"), ("POST", "/v1/responses"),
     ("GET", "/v1/responses/resp_1"), ("POST", "/v1/responses/resp_1/cancel"), ("POST", "/pooling"), ("POST", "/v1/score")],
)  # fmt: skip
async def test_what_an_engine_answers_is_relayed(
    front: FrontUnderTest, worker: ScriptedWorker, method: str, target: str
) -> None:
    assert (await front.ask(request(method, target, b"{}" if method != "GET" else None))).status == 200
    assert (worker.seen[0].method, worker.seen[0].target) == (method, target)
