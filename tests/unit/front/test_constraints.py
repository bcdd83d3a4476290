"""FAULTS C8: schemas, tools, grammars and stop expressions that would hold an engine up never reach it."""

import functools
import json
import re
import signal
from collections.abc import AsyncIterator
from contextlib import contextmanager
from typing import Any

import pytest

from ichat.front.constraints import TYPES, Budget, excess
from ichat.front.stop_expression import slow_stop
from tests.unit.front.raw_client import request
from tests.unit.front.running_front import FrontUnderTest, running_front
from tests.unit.front.scripted_worker import ScriptedWorker

LIMIT = 65536
TEXT = {"type": "string"}


def nested(levels: int) -> dict[str, Any]:
    return functools.reduce(lambda inner, _: {"type": "object", "properties": {"a": inner}}, range(levels), dict(TEXT))


def wide(keys: int) -> dict[str, Any]:
    return {"type": "object", "properties": {f"p{number}": TEXT for number in range(keys)}}


def tool(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "parameters": schema}}


LONG = {"enum": ["x" * 100] * 700}
BAD = [(nested(40), "nested deeper than 64"), (wide(1001), "1001 keys"), (LONG, "limit_schema_bytes: 65536")]
PLACES = [
    ("response_format", lambda schema: {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}),
    ("structured_outputs", lambda schema: {"json": schema}),
    ("structured_outputs", lambda schema: {"json": json.dumps(schema)}),
    ("json_schema", json.dumps),
    ("structural_tag", lambda schema: {"structures": [{"begin": "<", "schema": schema, "end": ">"}]}),
    ("text", lambda schema: {"format": {"type": "json_schema", "schema": schema}}),
    ("output_config", lambda schema: {"format": {"type": "json_schema", "schema": schema}}),
    ("format", lambda schema: schema),
    ("tools", lambda schema: [tool(dict(TEXT)), tool(schema)]),
    ("tools", lambda schema: [{"name": "f", "input_schema": schema}]),
    ("functions", lambda schema: [{"name": "f", "parameters": schema}]),
]
GOOD: list[tuple[str, Any]] = [
    ("response_format", {"type": "json_object"}),
    ("response_format", None),
    *((key, put(schema)) for key, put in PLACES for schema in (nested(18), wide(900), {"enum": ["x" * 100] * 500})),
    ("regex", r"(a{0,9}b){0,9}"),
    ("ebnf", 'root ::= "a" | "b"'),
    ("text", "x" * 100_000),
    ("format", "json"),
    ("tools", [tool(dict(TEXT))] * 512),
    ("tools", "none"),
]
SLOW = [
    "(x+x+)+y", "(a*)*", "(a|b*)+", "((a?)){50}", "(?:x{0,5}){0,5}", "a?" * 20, ".*.*", "x+y+", "[ab]*c*",
    "a{0,99}b{0,99}", "a{1,}b{1,}", "(?P<n>a+)*", r"(\d+,)*", "(a+?)+", "a{9999999}b+", "(((a)*))*", "(?:ab|ab)*c",
    "(?:a|aa)+$", "(?:a|){40}b", "(?:(?=a)a|a){30}!", "(?:ab|a|b)" * 20 + "!", r"(?:\w?.)(?#){30}!", r"(?x)(?:\w?.) {30}!",
    "(?i)(?:ab|Ab)*c", "(a)?(?(1)a|a?a){30}", "(?s).{0,99}.{0,98}(?=\0)", "x" * 257,
    # Unbounded: all of the answer is searched after every token, and from each place to its end.
    r"\d+", ".*", "a+?", "[^]*]+", "(a+)?", "a{,}", "[]]*", r"[\]]*", "(?=a+)", "(?:foo|bar)+", r"\d{1,9}\.\d+", r"\n\s*User:",
    r"a{1,200}\w+^", "a{201}", r"\w+^",
]  # fmt: skip
QUICK = [
    "\n\n", r"\d{1,9}", "[*+?]{3}", r"\*\+\?", "(?:ab){1,20}", r"(\d{3}-){2}\d{4}", "a?b?c?", "x{0,9}y{0,9}",
    "{}", "a{x}", "(", ")", "[", "\\", "", "a{2,3}", "(?:foo|bar){1,3}",
    r"(?:\d{1,3}\.){3}\d{1,3}", r"\d{1,9}\.\d{1,9}", r"\n\s{0,20}User:", "END|STOP", "a{99999999999}",
]  # fmt: skip


@contextmanager
def at_most(seconds: float) -> AsyncIterator[None]:  # type: ignore[misc]
    """A match that takes for ever cannot be waited for: Python's `re` lets signals in."""

    def over(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
async def bounded(worker: ScriptedWorker) -> AsyncIterator[FrontUnderTest]:
    async with running_front() as front:
        front.routes(worker, limits={"schema_bytes": LIMIT})
        await front.settle()
        yield front


def body_of(field: str, value: Any, size: str) -> bytes:
    document = {"model": "demo", field: value}
    if size == "long":  # longer than what is parsed at once
        document = {"messages": ["x" * 1_100_000], **document}
    return json.dumps(document).encode()


@pytest.mark.parametrize("size", ["short", "long"])
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(("schema", "words"), BAD, ids=["deep", "wide", "long"])
async def test_a_schema_that_is_too_much_is_refused_wherever_it_stands(
    bounded: FrontUnderTest, worker: ScriptedWorker, schema: Any, words: str, size: str, *, inside: bool
) -> None:
    for key, put in PLACES:
        field, value = ("sampling_params", {key: put(schema)}) if inside else (key, put(schema))
        response = await bounded.ask(request(body=body_of(field, value, size)))
        assert (response.status, response.code) == (400, "limit_exceeded"), key
        message = response.json()["error"]["message"]
        assert message.startswith(f"sampling_params.{key}: " if inside else f"{key}: ")
        assert words in message
        assert len(message) < 200
    assert worker.seen == []


@pytest.mark.parametrize("size", ["short", "long"])
async def test_what_an_engine_bears_passes(bounded: FrontUnderTest, worker: ScriptedWorker, size: str) -> None:
    for field, value in GOOD:
        body = body_of(field, value, size)
        assert (await bounded.ask(request(body=body))).status == 200, (field, str(value)[:100])
        assert worker.seen[-1].body == body


async def test_a_prompt_is_no_constraint_and_an_embedding_has_none(
    bounded: FrontUnderTest, worker: ScriptedWorker
) -> None:
    for path, document in (
        ("/generate", {"text": ["x" * 1_100_000]}),
        ("/generate", {"text": "x" * 1_100_000}),
        ("/v1/embeddings", {"input": "x" * 1_100_000, "response_format": nested(40)}),
        ("/v1/embeddings", {"input": "x", "response_format": nested(40)}),
    ):
        body = json.dumps({"model": "demo", **document}).encode()
        assert (await bounded.ask(request(target=path, body=body))).status == 200
    assert len(worker.seen) == 4


async def test_without_the_limit_nothing_is_looked_at(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    for schema, _ in BAD:
        for key, put in PLACES:
            assert (await front.ask(request(body=body_of(key, put(schema), "short")))).status == 200
    assert len(worker.seen) == len(BAD) * len(PLACES)


@pytest.mark.parametrize("expression", SLOW)
@pytest.mark.parametrize("as_list", [False, True])
async def test_a_stop_expression_that_could_match_for_ever_is_refused(
    bounded: FrontUnderTest, worker: ScriptedWorker, expression: str, *, as_list: bool
) -> None:
    value = ["a", expression] if as_list else expression
    response = await bounded.ask(request(body=body_of("stop_regex", value, "short")))
    assert (response.status, response.code) == (400, "limit_exceeded")
    assert "stop_regex: " in response.json()["error"]["message"]
    assert worker.seen == []


@pytest.mark.parametrize("expression", QUICK)
def test_a_stop_expression_that_cannot_is_let_through(expression: str) -> None:
    assert slow_stop(expression) is None
    try:
        compiled = re.compile(expression)
    except (re.error, OverflowError):
        return  # the engine's to refuse
    with at_most(5):
        for text in ("x" * 3000, "ab" * 1500, "1" * 3000, "a" * 2000 + "!"):
            compiled.search(text)


def test_the_slowest_of_them_would_be() -> None:
    """The test above could fail."""
    with pytest.raises(TimeoutError), at_most(0.5):
        re.search("(x+x+)+y", "x" * 3000)


def too_much(key: str, value: Any, budget: Budget | None = None) -> str:
    return excess(key, value, "demo", LIMIT, budget or Budget()) or ""


def test_the_number_of_tools_and_of_values_is_bounded() -> None:
    assert "1025 are more than 1024" in too_much("tools", [tool(dict(TEXT))] * 1025)
    many = [{"name": "f", "parameters": {"enum": [[]] * 10_000}}]
    assert "more than 50000 values" in too_much("tools", many * 6)
    budget = Budget()
    assert [bool(too_much("tools", many, budget)) for _ in range(6)] == [False] * 4 + [True] * 2
    assert "more than 4194304 bytes" in too_much("tools", [{"name": "x" * 60_000}] * 80)
    assert "33 are more than 32" in too_much("stop_regex", ["a"] * 33)


@pytest.mark.parametrize("levels", [40, 150, 600, 1500])
@pytest.mark.parametrize("before", ["", " ", "\n\t"])
def test_a_schema_that_is_written_as_a_text_is_no_deeper(levels: int, before: str) -> None:
    text = before + '{"properties":{"a":' * levels + '{"type":"string"}' + "}}" * levels
    assert "nested deeper than 64" in too_much("json_schema", text)
    assert "nested deeper than 64" in too_much("structured_outputs", {"json": text})


def test_what_is_no_json_in_a_text_is_the_engines_to_refuse() -> None:
    for text in ("{not json", "[a-z]+", '{"a": "' + "{" * 100 + '"', "[" * 50):
        assert too_much("json_schema", text) == ""
    assert set(TYPES) >= {key for key, _ in PLACES}


@pytest.mark.parametrize("key", ["tools", "t\\u006fols"])
@pytest.mark.parametrize("filler", [0, 1_100_000])
async def test_the_tools_of_a_message_are_looked_at_too(
    bounded: FrontUnderTest, worker: ScriptedWorker, filler: int, key: str
) -> None:
    good, bad = ([tool(nested(levels))] for levels in (3, 60))
    body = (
        f'{{"model": "demo", "messages": [{{"role": "user", "content": "{"x" * filler}"}},'
        f' {{"role": "system", "{key}": {json.dumps(good)}}}, {{"{key}": {json.dumps(bad)}}}]}}'
    ).encode()
    response = await bounded.ask(request(body=body))
    assert (response.status, response.code) == (400, "limit_exceeded")
    assert "tools: nested deeper than 64" in response.json()["error"]["message"]
    assert (await bounded.ask(request(body=body.replace(json.dumps(bad).encode(), b"[]")))).status == 200
    assert len(worker.seen) == 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (b'"tools":' + b" " * 1100 + b"[]", "no value behind its colon"),
        (b'"tools": [], "tools": []', "stands twice"),
        (b'"regex": "' + b"a" * 1_060_000 + b'"', "longer than"),
    ],
)
async def test_what_could_hide_in_a_long_body_is_refused(
    bounded: FrontUnderTest, worker: ScriptedWorker, fields: bytes, words: str
) -> None:
    body = b'{"x": "' + b"x" * 1_100_000 + b'", ' + fields + b', "model": "demo"}'
    response = await bounded.ask(request(body=body))
    assert (response.status, response.code) == (400, "invalid_body")
    assert words in response.json()["error"]["message"]
    assert worker.seen == []


async def test_an_expression_that_no_engine_can_read_is_the_engines_to_refuse(
    bounded: FrontUnderTest, worker: ScriptedWorker, recwarn: pytest.WarningsRecorder
) -> None:
    """Python's parser raises ValueError for the first, and warns of the second on every line of a log."""
    for expression in ("(?a)(?u)x", "[[a]"):
        for size in ("short", "long"):
            response = await bounded.ask(request(body=body_of("stop_regex", expression, size)))
            assert response.status == 200
    assert len(worker.seen) == 4
    assert [one for one in recwarn if issubclass(one.category, FutureWarning)] == []
