"""What a client gets from the real engines through the whole of ichat, with the official ``openai`` client."""

from __future__ import annotations

import asyncio
import http.client
import json
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.demo_answers import ANSWERS
from tests.odd_requests import PLAIN, Fuzz, OddRequests
from tests.real_engine import ENGINES, RealLauncher, load
from tests.route_fields import read_fields
from tests.volume import IS_FULL, times

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

QUESTION = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
KEY = "sk-a-key-only-for-this-test"


@pytest.fixture(scope="module", params=ENGINES)
def launcher(request: pytest.FixtureRequest) -> Iterator[RealLauncher]:
    with RealLauncher(request.param, env={"ICHAT_API_KEY": KEY}) as running:
        yield running.wait_ready()
        assert running.stop() == 0
        running.assert_nothing_left()


@pytest.fixture
def client(launcher: RealLauncher) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://127.0.0.1:{launcher.port}/v1", api_key=KEY, max_retries=0, timeout=60)


def ask(client: openai.OpenAI, question: str, **asked: Any) -> Any:
    return client.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": question}], temperature=0, max_tokens=120, **asked
    )


@pytest.mark.parametrize("question", ANSWERS)
def test_the_demo_model_says_what_it_was_taught_on_either_engine(client: openai.OpenAI, question: str) -> None:
    assert ask(client, question).choices[0].message.content == ANSWERS[question]


def test_usage_and_finish_reason_are_told(client: openai.OpenAI) -> None:
    answer = ask(client, "What is ichat?")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens > 5
    assert answer.usage.completion_tokens > 5
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    cut = client.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": "What is ichat?"}], max_tokens=3, temperature=0
    )
    assert (cut.choices[0].finish_reason, cut.usage.completion_tokens) == ("length", 3)


def test_a_stream_says_the_same_piece_by_piece(client: openai.OpenAI) -> None:
    whole = ask(client, "What is ichat?")
    pieces, usage, reasons = [], None, []
    for chunk in ask(client, "What is ichat?", stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            pieces.append(choice.delta.content or "")
            reasons.append(choice.finish_reason)
    assert "".join(pieces) == whole.choices[0].message.content
    assert len([piece for piece in pieces if piece]) > 5
    assert [reason for reason in reasons if reason] == ["stop"]
    assert usage.completion_tokens == whole.usage.completion_tokens


def test_a_plain_completion_takes_stop_n_and_logprobs(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="demo", prompt="What is ichat?", max_tokens=16, n=2, temperature=0.7, seed=1, logprobs=1
    )
    assert len(answer.choices) == 2
    assert len(answer.choices[0].logprobs.token_logprobs) == len(answer.choices[0].logprobs.tokens) > 0
    assert all(logprob <= 0 for logprob in answer.choices[0].logprobs.token_logprobs)
    whole = ask(client, "What is ichat?").choices[0].message.content
    word = whole.split()[3]
    stopped = ask(client, "What is ichat?", stop=[word])
    assert stopped.choices[0].finish_reason == "stop"
    assert stopped.choices[0].message.content == whole.split(word)[0]


def test_models_are_listed(client: openai.OpenAI, launcher: RealLauncher) -> None:
    (model,) = client.models.list().data
    assert (model.id, model.owned_by) == ("demo", "ichat")


def test_a_model_that_is_not_served_is_404_with_the_names(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="demo") as caught:
        client.completions.create(model="gpt-4", prompt="Hi")
    assert caught.value.code == "model_not_found"


def test_a_wrong_key_is_401_everywhere_but_on_the_probes(launcher: RealLauncher) -> None:
    stranger = openai.OpenAI(base_url=f"http://127.0.0.1:{launcher.port}/v1", api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        stranger.models.list()
    assert launcher.get("/health")[0] == 200
    assert KEY not in launcher.lines()


def post(launcher: RealLauncher, path: str, body: dict[str, Any] | None) -> tuple[int, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{launcher.port}{path}", json.dumps(body).encode() if body is not None else None,
        {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"},
    )  # fmt: skip
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_the_engines_own_routes_are_served(launcher: RealLauncher) -> None:
    status, tokens = post(launcher, "/tokenize", {"model": "demo", "prompt": "What is ichat?"})
    assert status == 200, tokens
    assert tokens["tokens"]
    if launcher.backend == "sglang":
        status, said = post(launcher, "/generate", {"text": "Hi", "sampling_params": {"max_new_tokens": 2}})
        assert (status, said["meta_info"]["completion_tokens"]) == (200, 2)
        assert post(launcher, "/get_server_info", None)[0] == 200


@pytest.mark.parametrize(
    "path",
    ["/sleep", "/wake_up", "/flush_cache", "/update_weights_from_disk", "/release_memory_occupation", "/start_profile",
     "/v1/load_lora_adapter", "/abort_request", "/pause", "/collective_rpc", "/reset_prefix_cache"],
)  # fmt: skip
def test_the_engines_control_routes_are_not_public(launcher: RealLauncher, path: str) -> None:
    assert post(launcher, path, {})[0] == 404


def test_metrics_are_those_of_the_front_and_of_the_engine(launcher: RealLauncher) -> None:
    status, text = launcher.get("/metrics")
    assert status == 200
    assert "ichat_" in text
    assert f"{launcher.backend}:" in text


def test_what_an_engine_lacks_is_told_in_the_documented_shape(launcher: RealLauncher) -> None:
    """Engines write head and body apart; each has other routes than the other."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}", "X-Request-Id": "me"}
    for path in {"vllm": ("/cohere/v2/chat", "/encode"), "sglang": ("/v2/rerank", "/pooling")}[launcher.backend]:
        connection = http.client.HTTPConnection("127.0.0.1", launcher.port, timeout=20)
        connection.request("POST", path, b'{"model": "demo"}', headers)
        response = connection.getresponse()
        error = json.loads(response.read())["error"]
        assert (response.status, error["code"], response.getheader("x-request-id")) == (404, "not_found", "me")
        assert f"{path}: the engine does not offer this for model 'demo'" in error["message"]
        connection.close()


def test_bad_requests_are_the_clients_fault_and_harm_nobody(launcher: RealLauncher, client: openai.OpenAI) -> None:
    """E6, for what a request can ask of a text model."""
    before = launcher.engine_processes()
    bad: list[dict[str, Any]] = [
        {"messages": "not a list"}, {"messages": []}, {"max_tokens": -1}, {"temperature": -5}, {"n": 0},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}},
        {"messages": [{"role": "user", "content": "word " * 4000}]}, {"stop": [1, 2]}, {"logit_bias": {"x": "y"}},
    ]  # fmt: skip
    for wrong in bad:
        status, answer = post(launcher, "/v1/chat/completions", QUESTION | wrong)
        assert status < 500, (wrong, answer)
    assert ask(client, "What is ichat?").choices[0].message.content
    assert {title: p.pid for title, p in launcher.engine_processes().items()} == {t: p.pid for t, p in before.items()}


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


def test_what_would_hold_the_engine_up_is_refused_before_it_and_a_schema_is_kept(
    launcher: RealLauncher, client: openai.OpenAI
) -> None:
    """C8."""
    schemas = {
        "deep": nested(300),
        "wide": {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(1500)}},
        "long": {"enum": ["x" * 100] * 700},
    }
    heavy: list[dict[str, Any]] = [
        {"response_format": {"type": "json_schema", "json_schema": {"name": name, "schema": schema}}}
        for name, schema in schemas.items()
    ]
    heavy += [{"tools": [{"type": "function", "function": {"name": "f", "parameters": nested(300)}}]}]
    heavy += [{"structured_outputs": {"json": nested(300)}}, {"stop_regex": "(x+x+)+y"}]
    for one in heavy:
        began = time.monotonic()
        status, answer = post(launcher, "/v1/chat/completions", QUESTION | one)
        assert (status, answer["error"]["code"]) == (400, "limit_exceeded"), one
        assert time.monotonic() - began < 1
    for template in ({"chat_template": "{{ 1 }}"}, {"chat_template_kwargs": {"chat_template": "{{ 1 }}"}}):
        status, answer = post(launcher, "/v1/chat/completions", QUESTION | template)
        # SGLang does not know the first, and answers by the model's own template.
        ignored = launcher.backend == "sglang" and "chat_template" in template
        assert status == (200 if ignored else 400), answer
    schema = {"enum": ["yes", "no"]}  # of anything longer the demo model writes the blanks that JSON allows
    answer = ask(client, "What is ICHAT_PORT?", response_format={
        "type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True},
    })  # fmt: skip
    assert json.loads(answer.choices[0].message.content) in ("yes", "no")


def test_a_client_that_leaves_frees_the_engine(launcher: RealLauncher, client: openai.OpenAI) -> None:
    """C1: the engine's own count of running requests goes back to nothing."""
    for _ in range(4):
        stream = client.completions.create(
            model="demo", prompt="Hi", max_tokens=1900, stream=True, extra_body={"ignore_eos": True}
        )
        next(iter(stream))
        stream.close()
    running = {"vllm": "vllm:num_requests_running{", "sglang": "sglang:num_running_reqs{"}[launcher.backend]

    def is_idle() -> bool:
        lines = [line for line in launcher.get("/metrics")[1].splitlines() if line.startswith(running)]
        return bool(lines) and all(float(line.rsplit(" ", 1)[1]) == 0 for line in lines)

    time.sleep(1)
    launcher.wait_for(is_idle, 15)


def test_many_streams_at_once_all_come_to_their_end(launcher: RealLauncher) -> None:
    with load(launcher, streams=16, tokens=60) as streams:
        pass
    assert all(stream.is_complete for stream in streams)


@pytest.mark.timeout(3600 if IS_FULL else 300)
def test_no_odd_request_ends_the_engine_or_stops_another_client(launcher: RealLauncher) -> None:
    fields = read_fields(launcher.backend)["fields"]
    processes = {title: process.pid for title, process in launcher.engine_processes().items()}
    for compiled in (
        {"logprobs": 5, "echo": True},
        {"repetition_penalty": 1.1},
        {"frequency_penalty": 1, "min_p": 0.1},
    ):
        assert launcher.complete(**compiled)[0] == 200  # the first of its kind may take seconds
    odd = OddRequests(fields, seed=10)
    for path in (None, *(path for path in PLAIN if path in fields)):
        fuzz = Fuzz(launcher.port, launcher.headers)
        asyncio.run(fuzz.run(odd.known() if path is None else odd.of(path, times(5000, 30))))
        assert (path, fuzz.failures, fuzz.calm_failures) == (path, [], [])
        assert {title: process.pid for title, process in launcher.engine_processes().items()} == processes, path
        assert fuzz.statuses[400] > 0, path
        assert not IS_FULL or fuzz.p99_s() < 1, path
    assert launcher.restarts == 0
