"""What the front counts, for whom, and how it is told: every number in docs/front.md is one of these."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ichat.config.schema import Limits, Timeouts
from ichat.front.metrics_text import render
from ichat.front.traffic import Ended, Traffic
from ichat.ipc import messages
from tests.unit.front.conftest import until
from tests.unit.front.raw_client import BODY, request
from tests.unit.front.running_front import FrontUnderTest, running_front
from tests.unit.front.scripted_worker import ScriptedWorker, Turn, running_worker

ROOT = Path(__file__).resolve().parents[3]
CHAT = "/v1/chat/completions"


class Numbers:
    """A text of metrics that was read by Prometheus' own rules."""

    def __init__(self, text: str) -> None:
        self.text = text
        families = text_string_to_metric_families(text)
        self.samples = [(one.name, one.labels, one.value) for family in families for one in family.samples]

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of the samples that have these labels."""
        found = [value for one, theirs, value in self.samples if one == name and labels.items() <= theirs.items()]
        return sum(found)

    def labels(self, name: str) -> set[str]:
        return {label for one, theirs, _ in self.samples if one == name for label in theirs}


async def numbers(front: FrontUnderTest) -> Numbers:
    response = await front.get("/metrics")
    assert response.header("content-type") == "text/plain; version=0.0.4; charset=utf-8"
    return Numbers(response.body.decode())


@pytest.fixture
async def of_alice(front: FrontUnderTest) -> dict[str, str]:
    return {"model": "demo", "route": CHAT, "ichat_instance": "demo/0", "key": ""}


async def test_a_request_counts_once_with_its_time_and_its_bytes(
    front: FrontUnderTest, worker: ScriptedWorker, of_alice: dict[str, str]
) -> None:
    async def answer(turn: Turn) -> None:
        await asyncio.sleep(0.02)
        await turn.json(200, {"a": "b"})

    worker.script = answer
    for _ in range(3):
        answered = await front.ask(request())
    found = await numbers(front)
    assert found("ichat_front_requests_total", **of_alice, status="2xx") == 3
    assert 0.055 <= found("ichat_front_busy_seconds_total", **of_alice) < 3
    assert found("ichat_front_received_bytes_total", **of_alice) == 3 * len(BODY)
    assert found("ichat_front_sent_bytes_total", **of_alice) == 3 * len(answered.body)
    of_alice.pop("key")
    for name in ("ichat_front_request_seconds", "ichat_front_first_byte_seconds"):
        assert found(f"{name}_count", **of_alice) == 3
        assert found(f"{name}_bucket", **of_alice, le="0.01") == 0
        assert found(f"{name}_bucket", **of_alice, le="+Inf") == 3


async def test_the_first_byte_of_a_stream_comes_before_its_end(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    async def stream(turn: Turn) -> None:
        await turn.start_events()
        await turn.chunk(b"data: {}\n\n")
        await asyncio.sleep(0.06)
        await turn.chunk(b"data: [DONE]\n\n")
        await turn.chunk(b"")

    worker.script = stream
    response = await front.ask(request())
    found = await numbers(front)
    assert found("ichat_front_first_byte_seconds_bucket", le="0.05") == 1
    assert found("ichat_front_request_seconds_bucket", le="0.05") == 0
    assert found("ichat_front_sent_bytes_total") > len(response.body)  # with their chunks' frames


# ---- tokens ---------------------------------------------------------------------------------------------------

CHAT_USAGE = {"prompt_tokens": 11, "total_tokens": 16, "completion_tokens": 5, "prompt_tokens_details": None}
RESPONSES_USAGE = {"input_tokens": 11, "input_tokens_details": {"cached_tokens": 3}, "output_tokens": 5}


@pytest.mark.parametrize(
    "answer",
    [
        {"choices": ["x" * 500], "usage": CHAT_USAGE, "prompt_logprobs": None, "kv_transfer_params": None},
        {"choices": ["y" * 300_000], "usage": CHAT_USAGE},
        {"output": ["x"], "usage": RESPONSES_USAGE, "user": None},
        {"content": [{"type": "text", "text": 'as in "usage": {"input_tokens": 7}'}], "usage": RESPONSES_USAGE},
    ],
)
async def test_tokens_are_read_off_an_answer(
    front: FrontUnderTest, worker: ScriptedWorker, answer: dict[str, Any]
) -> None:
    async def tell(turn: Turn) -> None:
        await turn.json(200, answer)

    worker.script = tell
    assert (await front.ask(request())).json() == answer
    found = await numbers(front)
    assert found("ichat_front_prompt_tokens_total", model="demo", ichat_instance="demo/0") == 11
    assert found("ichat_front_completion_tokens_total", model="demo", ichat_instance="demo/0") == 5


DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    "events",
    [
        [b"data: " + json.dumps({"choices": [], "usage": CHAT_USAGE}).encode() + b"\n\n", DONE],
        [b"data: " + json.dumps({"choices": [], "usage": CHAT_USAGE}).encode() + b"\n\n" + DONE],
        [b'data: {"choices": [1], "usage": null}\n\n'] * 9
        + [b"data: " + json.dumps({"choices": [], "usage": CHAT_USAGE}).encode() + b"\n\n", DONE],
        [
            b"event: message_delta\ndata: " + json.dumps({"usage": RESPONSES_USAGE}).encode() + b"\n\n",
            b'event: message_stop\ndata: {"type": "message_stop"}\n\n',
            DONE,
        ],
        [
            b"event: response.completed\ndata: "
            + json.dumps({"response": {"usage": RESPONSES_USAGE}}).encode()
            + b"\n\n"
        ],
    ],
)
async def test_tokens_are_read_off_the_last_events_of_a_stream(
    front: FrontUnderTest, worker: ScriptedWorker, events: list[bytes]
) -> None:
    async def stream(turn: Turn) -> None:
        await turn.start_events()
        for event in events:
            await turn.chunk(event)
            await asyncio.sleep(0.002)  # each in a read of its own
        await turn.chunk(b"")

    worker.script = stream
    await front.ask(request())
    found = await numbers(front)
    assert (found("ichat_front_prompt_tokens_total"), found("ichat_front_completion_tokens_total")) == (11, 5)


async def test_what_a_model_says_of_usage_is_no_usage(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    async def tell(turn: Turn) -> None:
        await turn.json(200, {"text": '{"usage": {"prompt_tokens": 7, "completion_tokens": 7}}', "usage": None})

    worker.script = tell
    await front.ask(request())
    assert (await numbers(front))("ichat_front_prompt_tokens_total") == 0


# ---- whose request it was -------------------------------------------------------------------------------------


async def test_requests_count_by_the_name_of_their_key_and_never_by_the_key(worker: ScriptedWorker) -> None:
    async with running_front(worker, api_keys=["sk-secret-a", "sk-secret-b"]) as front:
        for key in ("sk-secret-a", "sk-secret-b", "sk-secret-b", "sk-wrong"):
            for _ in range(2):  # the second one by a head that is known
                await front.ask(request(headers=f"Authorization: Bearer {key}\r\n"))
        found = await numbers(front)
    assert found("ichat_front_requests_total", key="key0", status="2xx") == 2
    assert found("ichat_front_requests_total", key="key1", status="2xx") == 4
    assert found("ichat_front_refused_total", key="", code="invalid_api_key") == 2
    assert "sk-" not in found.text


async def test_a_model_that_is_not_served_counts_without_its_name(front: FrontUnderTest) -> None:
    for name in ("gpt-1", "gpt-2"):
        await front.ask(request(body=json.dumps({"model": name}).encode()))
    found = await numbers(front)
    assert found("ichat_front_requests_total", model="", route=CHAT, ichat_instance="", status="4xx") == 2
    assert found("ichat_front_refused_total", model="", code="model_not_found") == 2
    assert "gpt-" not in found.text


async def test_paths_that_are_not_offered_are_no_names(front: FrontUnderTest) -> None:
    await front.get("/secret/path")
    found = await numbers(front)
    assert found("ichat_front_refused_total", code="not_found") == 1
    assert "secret" not in found.text


# ---- what goes wrong ------------------------------------------------------------------------------------------


async def test_a_worker_that_fails_is_named(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    async def fail(turn: Turn) -> None:
        await turn.json(500, {})

    worker.script = fail
    await front.ask(request())
    found = await numbers(front)
    assert found("ichat_front_worker_faults_total", model="demo", ichat_instance="demo/0") == 1
    assert found("ichat_front_refused_total", model="demo", code="engine_error") == 1
    assert found("ichat_front_requests_total", ichat_instance="demo/0", status="5xx") == 1


async def test_an_answer_that_is_cut_is_told_from_one_that_is_refused(
    front: FrontUnderTest, worker: ScriptedWorker
) -> None:
    async def die(turn: Turn) -> None:
        await turn.start_events()
        await turn.chunk(b"data: {}\n\n")
        await asyncio.sleep(0.01)
        turn.abort()

    worker.script = die
    await front.ask(request())
    found = await numbers(front)
    assert found("ichat_front_cut_total", model="demo", ichat_instance="demo/0", code="worker_lost") == 1
    assert found("ichat_front_worker_lost_total", model="demo") == 1
    assert found("ichat_front_refused_total") == 0


async def test_a_second_try_counts_where_it_was_answered() -> None:
    async with running_worker() as bad, running_worker() as good, running_front(bad, good) as front:
        bad.slams = True
        assert (await front.ask(request())).status == 200
        found = await numbers(front)
    assert found("ichat_front_retries_total", model="demo") == 1
    assert found("ichat_front_worker_faults_total", ichat_instance="demo/0") == 1
    assert found("ichat_front_requests_total", ichat_instance="demo/0") == 0
    assert found("ichat_front_requests_total", ichat_instance="demo/1", status="2xx") == 1


async def test_what_is_in_flight_is_known_where_it_is(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    async def script(turn: Turn) -> None:
        if turn.seen.target == "/metrics":
            await turn.json(404, {})
        else:
            await turn.until_client_left(30)
            turn.keeps_open = False

    worker.script = script
    client = await front.connect()
    await client.send(request())
    await until(lambda: len(worker.seen) == 1)
    found = await numbers(front)
    assert found("ichat_front_in_flight") == 1
    assert found("ichat_front_in_flight", model="demo", ichat_instance="demo/0") == 1
    assert found("ichat_front_connections") == 2
    client.close()
    await until(lambda: front.front._traffic.in_flight == 0)
    found = await numbers(front)
    assert found("ichat_front_in_flight") == 0
    assert found("ichat_front_client_left_total", model="demo") == 1


# ---- several workers ------------------------------------------------------------------------------------------


def says(number: int) -> Any:
    async def script(turn: Turn) -> None:
        if turn.seen.target == "/metrics":
            text = (
                f'# HELP t_total Tokens.\n# TYPE t_total counter\nt_total{{model_name="a\\"b"}} {number}.0\n'.encode()
            )
            await turn.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(text), text))
        else:
            await turn.json(200, {})

    return script


async def test_the_workers_own_numbers_are_told_apart() -> None:
    async with running_worker() as first, running_worker() as second, running_front(first, second) as front:
        first.script, second.script = says(1), says(2)
        found = await numbers(front)
    assert found("t_total", ichat_model="demo", ichat_instance="demo/0", model_name='a"b') == 1
    assert found("t_total", ichat_model="demo", ichat_instance="demo/1", model_name='a"b') == 2
    assert found.text.count("# TYPE t_total") == found.text.count("# HELP t_total") == 1
    assert found("ichat_front_silent_workers") == 0


async def test_a_worker_that_is_slow_or_broken_is_left_out_and_counted() -> None:
    async def never(turn: Turn) -> None:
        await turn.until_client_left(30)
        turn.keeps_open = False

    async def broken(turn: Turn) -> None:
        await turn.json(500, {})

    async with running_worker() as one, running_worker() as two, running_worker() as three:
        one.script, two.script, three.script = says(1), never, broken
        async with running_front(one, two, three, connect_s=0.2) as front:
            found = await numbers(front)
            assert found("t_total") == 1
            assert found("ichat_front_silent_workers") == 2
            assert await until(lambda: two.open_connections == 0) < 1


async def test_who_asks_while_others_do_costs_no_worker_more(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    async def slow(turn: Turn) -> None:
        await asyncio.sleep(0.1)
        await says(1)(turn)

    worker.script = slow
    answers = await asyncio.gather(*(front.get("/metrics") for _ in range(20)))
    assert all(b"t_total" in answer.body for answer in answers)
    assert len(worker.seen) == 1
    assert b"t_total" in (await front.get("/metrics")).body
    assert len(worker.seen) == 2


async def test_only_the_length_is_told_to_who_asks_for_the_head(front: FrontUnderTest) -> None:
    response = await front.ask(request("HEAD", "/metrics", None, "Connection: close\r\n"))
    assert int(response.header("content-length") or 0) > 100
    assert response.body == b""


async def test_streams_go_on_while_megabytes_are_merged(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    lines = [f'm{number % 50}_bucket{{le="{number}",model_name="demo"}} {number}' for number in range(60_000)]
    text = ("\n".join(lines) + "\n").encode()
    gaps: list[float] = []

    async def script(turn: Turn) -> None:
        if turn.seen.target == "/metrics":
            await turn.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(text), text))
        else:
            await turn.json(200, {})

    async def watch() -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            await asyncio.sleep(0)
            gaps.append(loop.time() - began)

    worker.script = script
    watching = asyncio.create_task(watch())
    body = (await front.get("/metrics")).body
    watching.cancel()
    assert body.count(b"\n") > 60_000
    gaps.sort()
    assert len(gaps) > 100  # so many turns did the loop make meanwhile, of which this process's client took some
    assert gaps[len(gaps) * 9 // 10] < 0.02


# ---- several front processes ----------------------------------------------------------------------------------


async def test_the_other_processes_numbers_stand_beside_its_own(worker: ScriptedWorker) -> None:
    async with running_front(worker, number=1, processes=2) as front:
        await front.ask(request())
        asking = asyncio.create_task(front.get("/metrics"))
        asked = await front.hears(lambda message: isinstance(message, messages.AskMetrics))
        assert isinstance(asked, messages.AskMetrics)
        text = render(Traffic(), {("demo", "demo/0"): 5}, 0)
        for piece, is_last in ((text[:100], False), (text[100:], True)):
            front.launcher.send(messages.MetricsText(asked.number, 1, 0, piece, is_last))
        found = Numbers((await asking).body.decode())
        assert found("ichat_front_in_flight", process="0", ichat_instance="demo/0") == 5
        assert found("ichat_front_requests_total", process="1") == 1
        assert found("ichat_front_silent_processes") == 0
        assert found.text.count("# TYPE ichat_front_in_flight ") == 1


async def test_a_process_that_does_not_answer_is_left_out_and_counted(worker: ScriptedWorker) -> None:
    async with running_front(worker, number=0, processes=3, connect_s=0.2) as front:
        asking = asyncio.create_task(front.get("/metrics"))
        asked = await front.hears(lambda message: isinstance(message, messages.AskMetrics))
        assert isinstance(asked, messages.AskMetrics)
        front.launcher.send(messages.MetricsText(asked.number, 0, 1, "", is_last=True))  # it is not there
        found = Numbers((await asking).body.decode())
        assert found("ichat_front_silent_processes") == 2
        assert found("ichat_front_connections", process="0") == 1


async def test_it_tells_its_own_numbers_to_another_process_that_asks(worker: ScriptedWorker) -> None:
    async with running_front(worker, number=1, processes=2) as front:
        await front.ask(request())
        await front.tell(messages.TellMetrics(7, 0))
        pieces = [message for message in front.heard if isinstance(message, messages.MetricsText)]
    assert {(piece.number, piece.asker, piece.process) for piece in pieces} == {(7, 0, 1)}
    assert [piece.is_last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    found = Numbers("".join(piece.text for piece in pieces))
    assert found("ichat_front_requests_total", process="1") == 1


# ---- settings that change -------------------------------------------------------------------------------------


def configured(*, limits: dict[str, Any] | None = None, keys: dict[str, str] | None = None) -> messages.Configure:
    return messages.Configure(
        Limits(**(limits or {})).model_dump(mode="json"),
        Timeouts(sweep_every_s=0.02).model_dump(mode="json"),
        keys or {},
    )


async def test_a_key_that_was_taken_away_opens_nothing_not_even_on_a_connection_it_has_opened(
    worker: ScriptedWorker,
) -> None:
    async with running_front(worker, api_keys=["old"]) as front:
        client = await front.connect()
        asked = request(headers="Authorization: Bearer old\r\n")
        for _ in range(2):
            await client.send(asked)
            assert (await client.response()).status == 200
        await front.tell(configured(keys={"new": "fresh"}))
        await client.send(asked)
        assert (await client.response()).status == 401
        assert (await front.ask(request(headers="Authorization: Bearer fresh\r\n"))).status == 200
        assert (await numbers(front))("ichat_front_requests_total", key="new") == 1


async def test_keys_can_come_and_go_altogether(front: FrontUnderTest) -> None:
    assert (await front.ask(request())).status == 200
    await front.tell(configured(keys={"new": "fresh"}))
    assert (await front.ask(request())).status == 401
    await front.tell(configured())
    assert (await front.ask(request())).status == 200


async def test_new_limits_hold_on_connections_that_are_open(front: FrontUnderTest) -> None:
    client = await front.connect()
    for _ in range(2):
        await client.send(request())
        assert (await client.response()).status == 200
    await front.tell(configured(limits={"body_bytes": 4, "connections": 1}))
    await client.send(request())
    assert (await client.response()).code == "body_too_large"
    one, other = await front.connect(), await front.connect()
    await other.send(request(body=b"{}"))
    assert (await other.response()).code == "too_many_connections"
    for each in (client, one, other):
        each.close()


# ---- the page -------------------------------------------------------------------------------------------------


async def test_the_page_tells_of_every_number_and_its_labels(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    traffic = Traffic()
    tail = b'"usage":{"prompt_tokens":3,"completion_tokens":4}'
    traffic.ended.append(Ended("demo", CHAT, "demo/0", "alice", 200, 0.2, 0.1, 5, 7, tail))
    model = traffic.model("demo")
    model.queued = model.affinity_hits = model.affinity_misses = 1
    model.waited.observe(1)
    traffic.refuse("invalid_body", "demo", "alice")
    traffic.cut_off("worker_lost", "demo", "demo/0")
    traffic.fault("demo/0")
    own = Numbers(render(traffic, {("demo", "demo/0"): 1}, 0))
    whole = await numbers(front)
    rendered: dict[str, set[str]] = {}
    for found in (own, whole):
        kinds = dict(re.findall(r"^# TYPE (ichat_front_\w+) (\w+)$", found.text, re.M))
        for name, kind in kinds.items():
            sample = f"{name}_count" if kind == "histogram" else name
            rendered.setdefault(name, set()).update(found.labels(sample))
    page = (ROOT / "docs" / "front.md").read_text()
    documented: dict[str, set[str]] = {}
    for names, labels in re.findall(r"^\| (`ichat_front_[^|]*)\|([^|]*)\|", page, re.M):
        for name in re.findall(r"`(\w+)`", names):
            documented[name] = set(re.findall(r"`(\w+)`", labels))
    assert documented == rendered
