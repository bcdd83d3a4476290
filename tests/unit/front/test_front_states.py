"""What the front says of itself and of its model, from the first moment to the last."""

import asyncio
import time

import pytest

from ichat.ipc import messages
from tests.unit.front.raw_client import request
from tests.unit.front.running_front import FrontUnderTest, running_front
from tests.unit.front.scripted_worker import ScriptedWorker, Turn, running_worker

READY = ("/readyz", "/health", "/ping", "/v1/health/ready")
ALIVE = ("/livez", "/v1/health/live")


async def statuses(front: FrontUnderTest, targets: tuple[str, ...]) -> set[int]:
    return {(await front.get(target)).status for target in targets}


async def test_what_comes_before_the_launcher_has_spoken_waits_for_its_words(worker: ScriptedWorker) -> None:
    """As after a restart of the front, whose models are ready all along."""
    async with running_front() as front:
        asking = [asyncio.create_task(front.ask(request())) for _ in range(3)]
        await asyncio.sleep(0.1)
        assert not any(one.done() for one in asking)
        front.routes(worker)
        assert [(await one).status for one in asking] == [200] * 3


async def test_without_a_model_it_lives_and_is_not_ready() -> None:
    async with running_front() as front:
        await front.tell(messages.Routes([], was_ready=False))
        assert await statuses(front, ALIVE) == {200}
        assert await statuses(front, (*READY, "/startupz")) == {503}
        response = await front.ask(request())
        assert (response.status, response.code, response.header("retry-after")) == (503, "model_loading", "2")
        assert (await front.get("/v1/models?state=all")).json() == {"object": "list", "data": []}


async def test_while_loading_it_tells_the_phase() -> None:
    async with running_front(retry_after_s=7) as front:
        front.routes(state="starting", words="weights", since=time.time() - 12.5)
        await front.settle()
        ready = await front.get("/readyz")
        assert (ready.status, ready.body, ready.header("retry-after")) == (503, b"loading demo: weights, 12 s\n", "7")
        response = await front.ask(request())
        assert (response.status, response.code, response.header("retry-after")) == (503, "model_loading", "7")
        assert "loading demo: weights, 12 s" in response.json()["error"]["message"]
        assert (await front.get("/startupz")).status == 503
        assert (await front.get("/v1/models?state=all")).json()["data"][0]["words"] == "loading demo: weights, 12 s"


@pytest.mark.parametrize(
    ("state", "words", "code", "shown"),
    [
        (
            "starting",
            "restarting: vLLM process 1 was killed; attempt 2",
            "model_loading",
            "restarting demo: vLLM process 1",
        ),
        ("draining", "", "model_draining", "draining: demo"),
        ("failed", "failed: no", "no_worker", "failed: demo"),
        ("stopped", "", "no_worker", "stopped: demo"),
    ],
)
async def test_a_model_that_is_not_ready_is_refused(state: messages.State, words: str, code: str, shown: str) -> None:
    async with running_front() as front:
        front.routes(state=state, words=words)
        await front.settle()
        response = await front.ask(request())
        assert (response.status, response.code, response.header("retry-after")) == (503, code, "2")
        assert shown in response.json()["error"]["message"]
        assert (await front.get("/readyz")).status == 503


async def test_when_ready_every_probe_is_green(front: FrontUnderTest) -> None:
    assert await statuses(front, (*READY, *ALIVE, "/startupz")) == {200}
    assert (await front.get("/health")).body == b"ready: demo\n"
    assert (await front.ask(request("POST", "/ping", b""))).status == 200
    client = await front.connect()
    await client.send(request("HEAD", "/livez", None) + request("GET", "/livez", None))
    head = await client.reader.readuntil(b"\r\n\r\n")
    assert b"content-length: 6\r\n" in head
    assert (await client.response()).body == b"alive\n"
    client.close()


async def test_the_models_are_listed(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    (card,) = (await front.get("/v1/models")).json()["data"]
    assert (card["id"], card["object"], card["owned_by"], card["backend"]) == ("demo", "model", "ichat", "fake")
    assert (await front.get("/v1/models/demo")).json() == card
    missing = await front.get("/v1/models/other")
    assert (missing.status, missing.code) == (404, "model_not_found")
    assert worker.seen == []


async def test_an_unknown_model_is_refused_and_the_served_ones_are_named(front: FrontUnderTest) -> None:
    response = await front.ask(request(body=b'{"model": "gpt-4"}'))
    assert (response.status, response.code) == (404, "model_not_found")
    assert "'gpt-4'" in response.json()["error"]["message"]
    assert "demo" in response.json()["error"]["message"]


@pytest.mark.parametrize("body", [b"{}", b'{"model": null}', b'{"messages": []}'])
async def test_without_a_name_the_only_model_is_meant(
    front: FrontUnderTest, worker: ScriptedWorker, body: bytes
) -> None:
    assert (await front.ask(request(body=body))).status == 200
    assert worker.seen[0].body == body


async def test_with_several_models_each_goes_to_its_own() -> None:
    async with running_worker() as one, running_worker() as two, running_front() as front:
        models = [
            messages.RouteModel(
                name,
                [name, f"{name}-alias"],
                "fake",
                "ready",
                "",
                1.0,
                [messages.Instance(f"{name}/0", "a", worker.path)],
            )
            for name, worker in (("one", one), ("two", two))
        ]
        await front.tell(messages.Routes(models, was_ready=True))
        for name in ("two", "two-alias", "one"):
            assert (await front.ask(request(body=b'{"model": "%b"}' % name.encode()))).status == 200
        assert (len(one.seen), len(two.seen)) == (1, 2)
        response = await front.ask(request(body=b"{}"))
        assert (response.status, response.code) == (400, "invalid_body")
        assert len((await front.get("/v1/models")).json()["data"]) == 4


async def test_withdrawn_it_is_not_ready_and_still_serves(front: FrontUnderTest) -> None:
    await front.tell(messages.Withdraw())
    assert await statuses(front, READY) == {503}
    assert await statuses(front, ALIVE) == {200}
    assert (await front.ask(request())).status == 200


async def slow(turn: Turn) -> None:
    await asyncio.sleep(0.3)
    await turn.json(200, {})


async def begin(front: FrontUnderTest, worker: ScriptedWorker):
    client = await front.connect()
    await client.send(request())
    async with asyncio.timeout(2):
        while not worker.seen:
            await asyncio.sleep(0.005)
    return client


async def test_a_drain_lets_requests_finish_and_refuses_new_ones(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    worker.script = slow
    idle = await front.connect()
    busy = await begin(front, worker)
    await front.tell(messages.Drain(time.monotonic() + 20))
    assert await idle.is_closed()
    refused = await front.ask(request())
    assert (refused.status, refused.code) == (503, "shutting_down")
    assert (refused.header("retry-after"), refused.header("connection")) == ("2", "close")
    assert (await front.get("/readyz")).body == b"draining: 1 request in flight\n"
    response = await busy.response()
    assert (response.status, response.header("connection")) == (200, "close")
    assert await busy.is_closed()
    assert await front.hears(lambda message: isinstance(message, messages.FrontDrained)) == messages.FrontDrained(0)
    assert await statuses(front, ALIVE) == {200}


async def endless(turn: Turn) -> None:
    await turn.start_events()
    while True:
        await turn.chunk(b"data: {}\n\n")
        await asyncio.sleep(0.02)


async def never(turn: Turn) -> None:
    await turn.until_client_left(30)
    turn.keeps_open = False


async def test_at_the_deadline_a_stream_gets_its_last_words(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    worker.script = endless
    client = await begin(front, worker)
    began = time.monotonic()
    await front.tell(messages.Drain(began + 1.3))
    response = await client.response()
    assert 0.2 < time.monotonic() - began < 0.9
    assert response.is_whole
    assert response.body.endswith(b"\n\ndata: [DONE]\n\n")
    assert b'"code":"shutting_down"' in response.body
    assert await client.is_closed()
    assert await front.hears(lambda message: isinstance(message, messages.FrontDrained)) == messages.FrontDrained(1)


async def test_at_the_deadline_a_request_without_an_answer_gets_an_error(
    front: FrontUnderTest, worker: ScriptedWorker
) -> None:
    worker.script = never
    client = await begin(front, worker)
    await front.tell(messages.Drain(time.monotonic()))
    response = await client.response()
    assert (response.status, response.code, response.header("retry-after")) == (503, "shutting_down", "2")
    assert await _soon(lambda: worker.open_connections == 0)


async def _soon(is_it) -> bool:
    for _ in range(200):
        if is_it():
            return True
        await asyncio.sleep(0.005)
    return False


async def test_an_earlier_deadline_replaces_the_one_before(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    worker.script = endless
    client = await begin(front, worker)
    await front.tell(messages.Drain(time.monotonic() + 30))
    await front.tell(messages.Drain(time.monotonic()))
    began = time.monotonic()
    assert (await client.response()).is_whole
    assert time.monotonic() - began < 0.5
    await front.tell(messages.Drain(time.monotonic() + 30))
    await front.hears(lambda message: isinstance(message, messages.FrontDrained))


async def test_a_client_that_reads_nothing_does_not_hold_up_the_drain(
    front: FrontUnderTest, worker: ScriptedWorker
) -> None:
    async def flood(turn: Turn) -> None:
        await turn.start_events()
        while True:
            await turn.chunk(b"data: " + b"a" * 10_000 + b"\n\n")

    worker.script = flood
    await begin(front, worker)
    await asyncio.sleep(0.1)
    began = time.monotonic()
    await front.tell(messages.Drain(began + 0.2))
    await front.hears(lambda message: isinstance(message, messages.FrontDrained))
    assert time.monotonic() - began < 1.0


async def test_the_launcher_hears_of_the_load(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    worker.script = slow
    client = await begin(front, worker)
    await front.hears(lambda message: message == messages.FrontLoad(1))
    await client.response()
    await front.hears(lambda message: message == messages.FrontLoad(0))
