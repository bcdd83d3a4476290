"""The routing table as the launcher sends it: who is sent requests, who may finish what it has, who is dead."""

import asyncio
import json
import time
from typing import Any

import pytest

from ichat.ipc import messages
from tests.unit.front.conftest import until
from tests.unit.front.raw_client import Client, request
from tests.unit.front.running_front import FrontUnderTest, running_front
from tests.unit.front.scripted_worker import ScriptedWorker, Turn, running_worker


class Gate:
    """Requests at a worker wait until it opens."""

    def __init__(self) -> None:
        self.is_open = asyncio.Event()

    async def script(self, turn: Turn) -> None:
        await self.is_open.wait()
        await turn.json(200, {})


def instance(number: int, incarnation: str, worker: ScriptedWorker) -> messages.Instance:
    return messages.Instance(f"demo/{number}", incarnation, worker.path)


def route(name: str, *instances: messages.Instance, **more: Any) -> messages.RouteModel:
    state = more.pop("state", "ready" if instances else "starting")
    names = more.pop("names", [name])
    return messages.RouteModel(name, names, "fake", state, "", time.time(), list(instances), **more)


async def begin(front: FrontUnderTest, worker: ScriptedWorker) -> Client:
    before = len(worker.seen)
    client = await front.connect()
    await client.send(request())
    await until(lambda: len(worker.seen) > before)
    return client


def drained(front: FrontUnderTest) -> list[tuple[str, str]]:
    return [(one.instance, one.incarnation) for one in front.heard if isinstance(one, messages.WorkerDrained)]


async def test_an_idle_instance_that_drains_is_drained_at_once_and_told_once(
    front: FrontUnderTest, worker: ScriptedWorker
) -> None:
    assert (await front.ask(request())).status == 200
    old = instance(0, "a", worker)
    for _ in range(3):
        await front.tell(messages.Routes([route("demo")], was_ready=True, others=[old]))
    assert drained(front) == [("demo/0", "a")]
    assert (await front.ask(request())).status == 503


async def test_one_that_this_front_has_never_heard_of_is_drained_too(front: FrontUnderTest) -> None:
    unknown = messages.Instance("demo/7", "z", "/nowhere")
    await front.tell(messages.Routes([route("demo")], was_ready=True, others=[unknown]))
    await front.tell(messages.Routes([route("demo")], was_ready=True, others=[unknown]))
    assert drained(front) == [("demo/7", "z")]


async def test_an_instance_that_drains_finishes_what_it_has_and_gets_nothing_more(
    front: FrontUnderTest, worker: ScriptedWorker
) -> None:
    gate = Gate()
    worker.script = gate.script
    async with running_worker() as new:
        clients = [await begin(front, worker) for _ in range(3)]
        routes = messages.Routes([route("demo", instance(1, "b", new))], True, others=[instance(0, "a", worker)])
        await front.tell(routes)
        for _ in range(5):
            assert (await front.ask(request())).status == 200
        assert (len(worker.seen), len(new.seen), drained(front)) == (3, 5, [])
        gate.is_open.set()
        assert {(await client.response()).status for client in clients} == {200}
        await until(lambda: drained(front) == [("demo/0", "a")])
        await front.tell(routes)
        assert drained(front) == [("demo/0", "a")]


async def test_one_that_comes_back_from_suspicion_serves_and_may_drain_again(
    front: FrontUnderTest, worker: ScriptedWorker
) -> None:
    one = instance(0, "a", worker)
    for _ in range(2):
        await front.tell(messages.Routes([route("demo")], was_ready=True, others=[one]))
        await front.tell(messages.Routes([route("demo", one)], was_ready=True))
        assert (await front.ask(request())).status == 200
    assert drained(front) == [("demo/0", "a")] * 2


async def test_one_that_comes_back_before_it_is_drained_is_never_called_drained(
    front: FrontUnderTest, worker: ScriptedWorker
) -> None:
    gate = Gate()
    worker.script = gate.script
    client = await begin(front, worker)
    one = instance(0, "a", worker)
    await front.tell(messages.Routes([route("demo")], was_ready=True, others=[one]))
    await front.tell(messages.Routes([route("demo", one)], was_ready=True))
    gate.is_open.set()
    assert (await client.response()).status == 200
    await front.settle()
    assert drained(front) == []


async def test_an_incarnation_in_neither_list_is_dead_and_what_waits_for_it_is_ended(
    front: FrontUnderTest, worker: ScriptedWorker
) -> None:
    worker.script = Gate().script
    client = await begin(front, worker)
    began = time.monotonic()
    await front.tell(messages.Routes([route("demo")], was_ready=True))
    response = await client.response()
    assert (response.status, response.code) == (502, "worker_lost")
    assert time.monotonic() - began < 1.0
    assert drained(front) == []


async def test_what_a_dead_one_had_read_is_not_sent_to_another(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    """One of them may be what it died of."""
    worker.script = Gate().script
    async with running_worker() as other:
        clients = [await begin(front, worker) for _ in range(30)]
        await front.tell(messages.Routes([route("demo", instance(0, "b", other))], was_ready=True))
        assert {(await client.response()).status for client in clients} == {502}
        assert other.seen == []


async def test_a_fresh_connection_to_the_same_worker_is_no_moment_without_requests(
    front: FrontUnderTest, worker: ScriptedWorker
) -> None:
    """A kept connection that ends unread is replaced; in between the draining worker must not count as drained."""
    turns: list[Turn] = []

    async def script(turn: Turn) -> None:
        turns.append(turn)
        if len(turns) == 1:
            turn.read_no_more()
        assert drained(front) == []
        await turn.json(200, {"fresh": len(turns) > 1})

    worker.script = script
    assert (await front.ask(request())).status == 200
    client = await front.connect()
    await client.send(request())
    await until(lambda: front.front._traffic.in_flight == 1)
    await front.tell(messages.Routes([route("demo")], was_ready=True, others=[instance(0, "a", worker)]))
    turns[0].abort()
    assert (await client.response()).json() == {"fresh": True}
    await until(lambda: drained(front) == [("demo/0", "a")])


async def test_every_name_of_a_model_is_served(worker: ScriptedWorker) -> None:
    async with running_front() as front:
        names = ["org/big", "alias", "alias-2"]
        await front.tell(messages.Routes([route("big", instance(0, "a", worker), names=names)], was_ready=True))
        for name in names:
            assert (await front.ask(request(body=json.dumps({"model": name}).encode()))).status == 200
        listed = (await front.get("/v1/models")).json()["data"]
        assert [card["id"] for card in listed] == names
        assert {card["root"] for card in listed} == {"big"}
        response = await front.ask(request(body=b'{"model": "big"}'))
        assert (response.status, response.code) == (404, "model_not_found")
        assert "org/big, alias, alias-2" in response.json()["error"]["message"]


@pytest.mark.parametrize("how", ["query", "header", "body"])
async def test_where_several_are_served_a_request_without_a_body_names_its_model_itself(how: str) -> None:
    async with running_worker() as one, running_worker() as two, running_front() as front:
        models = [route("one", instance(0, "a", one)), route("two", instance(1, "b", two), names=["two", "org/two"])]
        await front.tell(messages.Routes(models, was_ready=True))
        if how == "query":
            response = await front.get("/version?x=1&model=org%2Ftwo")
        elif how == "header":
            response = await front.get("/version", "X-Ichat-Model: two\r\n")
        else:
            response = await front.ask(request(target="/v1/completions?model=one", body=b'{"model": "two"}'))
        assert (response.status, len(one.seen), len(two.seen)) == (200, 0, 1)


@pytest.mark.parametrize("target", ["/version", "/get_server_info", "/v1/responses/resp_1"])
async def test_where_several_are_served_and_none_is_named_the_client_is_told_how(target: str) -> None:
    async with running_worker() as one, running_worker() as two, running_front() as front:
        models = [route("one", instance(0, "a", one)), route("two", instance(1, "b", two))]
        await front.tell(messages.Routes(models, was_ready=True))
        response = await front.get(target)
        assert response.status == 400
        for words in ("one, two", "?model=", "x-ichat-model"):
            assert words in response.json()["error"]["message"]
        unknown = await front.get(f"{target}?model=three")
        assert (unknown.status, unknown.code) == (404, "model_not_found")
        assert one.seen == two.seen == []


async def test_what_one_instance_knows_is_asked_of_each(worker: ScriptedWorker) -> None:
    async def unknown(turn: Turn) -> None:
        await turn.json(404, {"error": {"message": "no such response"}})

    async def known(turn: Turn) -> None:
        await turn.json(200, {"id": "resp_1"})

    async with running_worker() as second, running_worker() as third, running_front(worker, second, third) as front:
        worker.script = second.script = unknown
        third.script = known
        for _ in range(6):
            response = await front.get("/v1/responses/resp_1")
            assert (response.status, response.json()) == (200, {"id": "resp_1"})
            body = b'{"model": "demo", "input": "And then?", "previous_response_id": "resp_1"}'
            response = await front.ask(request(target="/v1/responses", body=body))
            assert (response.status, response.json()) == (200, {"id": "resp_1"})
            assert third.seen[-1].body == body
        third.script = unknown
        seen = sum(len(one.seen) for one in (worker, second, third))
        response = await front.ask(request("POST", "/v1/responses/resp_2/cancel", None))
        assert (response.status, response.json()) == (404, {"error": {"message": "no such response"}})
        assert sum(len(one.seen) for one in (worker, second, third)) == seen + 3
        # Any other 404 is the engine's answer to this request.
        assert (await front.get("/version")).status in (200, 404)
        assert sum(len(one.seen) for one in (worker, second, third)) == seen + 4


async def test_readiness_does_not_depend_on_a_model_that_is_changed_by_command(worker: ScriptedWorker) -> None:
    async with running_front() as front:
        one, two = route("one", instance(0, "a", worker)), route("two", is_excused=True)
        await front.tell(messages.Routes([one, two], was_ready=True))
        ready = await front.get("/readyz")
        assert (ready.status, ready.body) == (200, b"ready: one (loading two: starting, 0 s)\n")
        await front.tell(messages.Routes([two], was_ready=True))
        ready = await front.get("/readyz")
        assert (ready.status, ready.body) == (200, b"ready: none (loading two: starting, 0 s)\n")
        await front.tell(messages.Routes([route("two"), two], was_ready=True))
        assert (await front.get("/readyz")).body == b"loading two: starting, 0 s\n"


async def test_the_list_tells_state_limits_and_length() -> None:
    async with running_worker() as one, running_front() as front:
        limits = {"n": 4, "max_tokens": None, "queued": 256}
        ready = route("one", instance(0, "a", one), names=["one", "uno"], max_model_len=4096, limits=limits)
        loading = route("two")
        failed = route("three", state="failed")
        await front.tell(messages.Routes([ready, loading, failed], was_ready=False))
        cards = (await front.get("/v1/models")).json()["data"]
        assert [card["id"] for card in cards] == ["one", "uno"]
        assert cards[0] == {
            "id": "one",
            "object": "model",
            "created": cards[0]["created"],
            "owned_by": "ichat",
            "root": "one",
            "backend": "fake",
            "state": "ready",
            "max_model_len": 4096,
            "limits": {"n": 4, "queued": 256},
        }
        everything = (await front.get("/v1/models?state=all")).json()["data"]
        states = {card["id"]: card["state"] for card in everything}
        assert states == {"one": "ready", "uno": "ready", "two": "starting", "three": "failed"}
        assert everything[2]["words"].startswith("loading two: starting, ")
        assert (await front.get("/v1/models?state=some")).status == 400


async def test_one_model_of_the_list_may_be_loading_or_unknown() -> None:
    async with running_worker() as one, running_front() as front:
        models = [route("org/one", instance(0, "a", one)), route("two")]
        await front.tell(messages.Routes(models, was_ready=False))
        for path in ("/v1/models/org/one", "/v1/models/org%2Fone"):
            assert (await front.get(path)).json()["id"] == "org/one"
        loading = await front.get("/v1/models/two")
        assert (loading.status, loading.code, loading.header("retry-after")) == (503, "model_loading", "2")
        assert (await front.get("/v1/models/two?state=all")).json()["state"] == "starting"
        unknown = await front.get("/v1/models/three")
        assert (unknown.status, unknown.code) == (404, "model_not_found")
