"""Requests that the loaded model cannot take end in the worker, with a 400 that names the field."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from ichat.backends.request_checks import rules
from ichat.backends.request_checks.facts import ModelFacts, RefusalError
from ichat.backends.request_checks.middleware import RequestChecks
from ichat.backends.request_checks.table import RequestTable

FACTS = ModelFacts(vocab_size=100, max_model_len=64, longest_text=640, hidden_size=4)


def whole_number(value: Any) -> None:
    if type(value) is not int:
        raise TypeError(f"Expected `int`, got `{type(value).__name__}`")


RULES: dict[str, rules.Rule] = {
    "prompt": rules.token_ids,
    "logprobs": rules.integer(0, lambda facts: facts.max_logprobs),
    "logit_bias": rules.token_keys,
    "penalty": rules.number(0.01, 2),
    "input_embeds": rules.vectors,
    "stop": rules.texts(20, 4),
    "input_ids": rules.all_of(rules.token_ids, rules.filled),
    "stop_regex": rules.expressions(20, 2),
    "inner": rules.refused("the engine sets this field itself"),
    "off": rules.refused("the engine sets this field itself", but_false=True),
    "rid": rules.not_beginning_with("HEALTH", "Probes are called so."),
    "labels": rules.keys_among(("team",), "there is no such label"),
    "kwargs": rules.keys_not_among(("tokenize",), "it is not the template's"),
    "sampling_params": rules.inside({"max_new_tokens": rules.typed(whole_number)}, ("max_new_tokens", "n")),
}


def table(**facts: Any) -> RequestTable:
    known = {name: getattr(FACTS, name) for name in FACTS.__dataclass_fields__}
    return RequestTable(ModelFacts(**known | facts), RULES, orjson.loads, {})


def refusal(document: Any, path: str = "/v1/completions", **facts: Any) -> RefusalError | None:
    try:
        table(**facts).read(path, document if isinstance(document, bytes) else json.dumps(document).encode())
    except RefusalError as error:
        return error
    return None


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("prompt", ([100], [-1], [[1], [100]], [1.5], [True], [1, "a"], ["a", 1], 100, [[[[1]]]], [10**30])),
        ("logprobs", (21, -1, "1000000", [1, 21], 10**30, 20.5)),
        ("logit_bias", ({"100": 1}, {"-1": 1}, {"x": 1})),
        ("penalty", (1e-300, 0, 2.1, "0.001")),
        ("input_embeds", ([[1.0]], [[1, 2, 3, 4], [1]], [[[1.0]]])),
        ("stop", ("x" * 21, ["x"] * 5, [["x" * 21]])),
        ("input_ids", ([], [[]], [[1], []])),
        ("stop_regex", ("(", ["a", "*"], "(?a)(?u)x", "x" * 21, ["a"] * 3, 5, "a{99999999999}")),
        ("inner", (True, False, [[1]], "x", {"a": 1}, [], {}, -0.0, "")),
        ("off", (True, 0, [])),
        ("rid", ("HEALTH_CHECK", ["a", "HEALTH"])),
    ],
)
def test_a_value_that_the_model_cannot_take_is_refused_with_its_field(field: str, values: tuple[Any, ...]) -> None:
    for value in values:
        found = refusal({field: value})
        assert found is not None, value
        assert found.field == field
        assert str(found).startswith(f"{field}: ")


def test_a_field_inside_another_is_named_with_its_way() -> None:
    for one in ({"max_new_tokens": 2.5}, [{"max_new_tokens": 1}, {"max_new_tokens": "5"}]):
        assert refusal({"sampling_params": one}).field == "sampling_params.max_new_tokens"  # type: ignore[union-attr]
    assert refusal({"sampling_params": {"nope": 1}}).field == "sampling_params.nope"  # type: ignore[union-attr]
    assert refusal({"logit_bias": {"5": 1e300}}).field == "logit_bias.5"  # type: ignore[union-attr]
    assert refusal({"labels": {"a": "b"}}).field == "labels.a"  # type: ignore[union-attr]
    assert refusal({"kwargs": {"tokenize": 1}}).field == "kwargs.tokenize"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "document",
    [
        {"prompt": "hi"},
        {"prompt": ["a", "b"]},
        {"prompt": [[0, 99], [1]]},
        {"prompt": {"id": "x"}},
        {"prompt": None, "logprobs": None},
        {"prompt": []},
        {"logprobs": True},
        {"logprobs": "20"},
        {"logprobs": "many"},  # the engine's class refuses that
        {"logit_bias": {"0": 1, "99": -1}},
        {"input_embeds": [[1, 2.0, 3, 4]]},
        {"stop": ["a", None]},
        {"stop_regex": ["a{1,3}", "[[a]"]},
        {"inner": None, "off": False},
        {"labels": {"team": "a"}, "kwargs": {"enable_thinking": True}, "rid": "x"},
        {"sampling_params": {"max_new_tokens": 5, "n": 2}},
        {"messages": [{"role": "user", "content": "x"}] * 300},
        {"unheard_of": [1.5]},
    ],
)
def test_what_the_model_can_take_passes(document: dict[str, Any]) -> None:
    assert refusal(document) is None


@pytest.mark.parametrize(
    "document",
    [
        {"n": 129},
        {"best_of": "129"},
        {"n": 1e9},
        {"sampling_params": [{"n": 1}, {"n": 200}]},
        {"parameters": {"sampling_params": {"n": 200}}},
        {"prompt": ["a"] * 1025},
        {"prompt": ["a"] * 100, "n": 11},
        {"prompt": [[1]] * 1025},
        {"text": ["a"] * 1025},
        {"messages": [[{"role": "user", "content": "x"}]] * 1025},
        {"instances": [{"text": "a"}] * 1025},
        {"questions": {str(n): {"type": "choice"} for n in range(1025)}},
    ],
)
def test_answers_are_counted_over_all_prompts(document: dict[str, Any]) -> None:
    found = refusal(document)
    assert found is not None
    assert found.code == "limit_exceeded"
    assert refusal(document, limit_n=10**10) is None


def test_limit_n_counts_every_answer_of_a_request() -> None:
    assert refusal({"prompt": ["a", "b"]}, limit_n=1) is not None
    assert refusal({"prompt": ["a", "b"], "n": 2}, limit_n=3) is not None
    assert refusal({"prompt": ["a", "b"], "n": 2}, limit_n=4) is None
    assert refusal({"input": ["a"] * 2048}, "/v1/embeddings", limit_n=1) is None  # vectors are no answers
    assert refusal({"input": ["a"] * 2049}, "/v1/embeddings") is not None


def test_a_prompt_that_cannot_fit_is_refused_by_its_length() -> None:
    long = "x" * 641
    for document in (
        {"prompt": long},
        {"prompt": ["a", long]},
        {"text": long},
        {"input": long},
        {"messages": [{"content": "x" * 400}, {"content": [{"type": "text", "text": "x" * 400}]}]},
        {"messages": [[{"content": "a"}], [{"content": long}]]},
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": long}]}]},
    ):
        found = refusal(document)
        assert found is not None, document
        assert found.code == "context_length_exceeded"
        assert refusal(document, longest_text=None) is None
    for document in (
        {"prompt": "x" * 640},
        {"prompt": ["x" * 400, "x" * 400]},
        {"messages": [{"content": [{"type": "image_url", "image_url": {"url": "data:" + "x" * 9000}}]}]},
        {"prompt": long, "truncate_prompt_tokens": 10},
    ):
        assert refusal(document) is None, document


@pytest.mark.parametrize("body", [b"[1]", b"1", b"{", b'{"a": NaN}', b'{"a": "\xff"}', b'{"a":' + b"[" * 100_000])
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    found = refusal(body)
    assert found is not None
    assert found.code == "invalid_body"


# ---- the ASGI part --------------------------------------------------------------------------------------------


class Mistakes:
    waiting = frozenset({"wait_for_the_engine"})

    def explain(self, document: dict[str, Any]) -> RefusalError | None:
        return (
            RefusalError("response_format", "no grammar.", "invalid_grammar") if "response_format" in document else None
        )


async def ask(
    app: Callable[..., Any], body: bytes = b"{}", *, path: str = "/v1/completions", method: str = "POST", parts: int = 1,
    content_type: bytes = b"application/json",
) -> list[dict[str, Any]]:  # fmt: skip
    """The messages that the app sent through the checks."""
    step = max(1, -(-len(body) // parts))
    pieces = [body[at : at + step] for at in range(0, len(body), step)] or [b""]
    events = [{"type": "http.request", "body": one, "more_body": True} for one in pieces]
    events[-1]["more_body"] = False
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return events.pop(0) if events else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(dict(message))

    scope = {"type": "http", "method": method, "path": path, "headers": [(b"content-type", content_type)]}
    await RequestChecks(app, table(), Mistakes())(scope, receive, send)
    return sent


def answering(status: int, body: bytes, *, then: Exception | None = None) -> Callable[..., Any]:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        if then is not None:
            raise then

    return app


async def test_a_request_in_order_reaches_the_app_as_it_came_and_then_the_client_leaving() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.extend([await receive(), await receive()])
        await answering(200, b"{}")(scope, receive, send)

    body = b'{"prompt":  "hi"}'
    for parts in (1, 3):
        seen.clear()
        sent = await ask(app, body, parts=parts)
        assert seen == [{"type": "http.request", "body": body, "more_body": False}, {"type": "http.disconnect"}]
        assert sent[0]["status"] == 200


async def test_a_refused_request_never_reaches_the_app() -> None:
    async def app(*_: Any) -> None:
        raise AssertionError("it did")

    sent = await ask(app, b'{"prompt": [100]}')
    assert sent[0]["status"] == 400
    error = json.loads(sent[1]["body"])["error"]
    assert (error["param"], error["type"], error["code"]) == ("prompt", "invalid_request_error", "invalid_value")
    assert dict(sent[0]["headers"])[b"content-length"] == str(len(sent[1]["body"])).encode()
    anthropic = await ask(app, b'{"prompt": [100]}', path="/v1/messages")
    assert json.loads(anthropic[1]["body"])["type"] == "error"


async def test_forms_gets_and_empty_bodies_pass_unread() -> None:
    assert (await ask(answering(200, b""), b"--x", content_type=b"multipart/form-data; boundary=x"))[0]["status"] == 200
    assert (await ask(answering(200, b""), b"[", method="GET"))[0]["status"] == 200
    assert (await ask(answering(200, b""), b""))[0]["status"] == 200


async def test_a_stream_passes_message_by_message() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(3):
            await send({"type": "http.response.body", "body": b"%d" % number, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    assert [message.get("body") for message in await ask(app)] == [None, b"0", b"1", b"2", b""]


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (
            '1 error:\n {}\n\n  File "/srv/x/http_server.py", line 910, in generate_request\n    POST /generate',
            "1 error:\n {}",
        ),
        ("<function loads at 0x7f18d5fb5e90> failed", "<function loads> failed"),
        ("[01:06:11] /project/cpp/regex_converter.cc:83: Regex parsing error", "Regex parsing error"),
        ("no such file (/opt/venv/lib/python3.11/site-packages/sglang/x.py:3)", "no such file"),
        ("use /v1/chat/completions, not text/plain or 3/4", "use /v1/chat/completions, not text/plain or 3/4"),
    ],
)
async def test_an_engine_s_4xx_does_not_tell_where_its_files_lie(words: str, kept: str) -> None:
    sent = await ask(answering(400, json.dumps({"error": {"message": words, "code": 400}}).encode()))
    assert json.loads(sent[1]["body"]) == {"error": {"message": kept, "code": 400}}
    assert dict(sent[0]["headers"])[b"content-length"] == str(len(sent[1]["body"])).encode()


async def test_what_an_app_raises_over_a_value_is_the_request_s_fault() -> None:
    for error in (
        TypeError("'<' not supported"),
        KeyError("x"),
        ValueError("at 0x7f18"),
        OverflowError(),
        AttributeError(),
    ):
        sent = await ask(answering(500, b"Internal Server Error", then=error))
        assert sent[0]["status"] == 400
        assert len(sent) == 2
        assert "0x" not in json.loads(sent[1]["body"])["error"]["message"]


async def test_what_the_engine_s_processes_raise_is_not() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def wait_for_the_engine() -> None:
            raise KeyError("the scheduler is gone")

        await answering(500, b"x")(scope, receive, send)
        await wait_for_the_engine()

    sent: list[Any] = []
    with pytest.raises(KeyError, match="scheduler"):
        sent = await ask(app)
    for other in (RuntimeError("broken"), OSError("no disk")):
        with pytest.raises(type(other)):
            await ask(answering(500, b"x", then=other))
    assert sent == []


async def test_a_stream_that_fails_before_its_first_event_is_no_stream() -> None:
    def app(error: Exception, *bodies: bytes) -> Callable[..., Any]:
        async def stream(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for body in bodies:
                await send({"type": "http.response.body", "body": body, "more_body": True})
            raise error

        return stream

    sent = await ask(app(ValueError("Failed to compile json grammar")))
    assert sent[0]["status"] == 400
    assert "json grammar" in json.loads(sent[1]["body"])["error"]["message"]
    with pytest.raises(ValueError, match="late"):
        await ask(app(ValueError("late"), b"data: 1"))
    with pytest.raises(RuntimeError):
        await ask(app(RuntimeError("broken")))


async def test_a_stream_of_events_that_fails_over_its_request_ends_with_an_error_event() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        raise ValueError("Failed to compile json grammar")

    sent = await ask(app)
    assert [one.get("more_body") for one in sent] == [None, True, False]
    event, done, _ = sent[-1]["body"].split(b"\n\n")
    name, data = event.split(b"\n")
    assert (name, done) == (b"event: error", b"data: [DONE]")
    assert "json grammar" in json.loads(data.removeprefix(b"data: "))["error"]["message"]


async def test_a_500_is_passed_on_unless_the_engine_can_say_that_the_request_was_at_fault() -> None:
    body = b'{"error": {"message": "File \\"/x/y.py\\", line 3"}}'
    sent = await ask(answering(500, body))
    assert (sent[0]["status"], sent[1]["body"]) == (500, body)
    sent = await ask(answering(500, body), b'{"response_format": {"type": "json_schema"}}')
    assert (sent[0]["status"], json.loads(sent[1]["body"])["error"]["code"]) == (400, "invalid_grammar")
    sent = await ask(answering(503, body), b'{"response_format": {"type": "json_schema"}}')
    assert sent[0]["status"] == 503


async def test_a_long_error_is_not_held_for_ever() -> None:
    body = b"x" * 300_000
    for status in (400, 500):
        sent = await ask(answering(status, body))
        assert (sent[0]["status"], b"".join(one["body"] for one in sent[1:])) == (status, body)


async def test_a_client_that_leaves_amid_its_body_asks_nothing() -> None:
    async def app(*_: Any) -> None:
        raise AssertionError("it did")

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise AssertionError(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": []}
    await RequestChecks(app, table(), Mistakes())(scope, receive, send)
