"""What asks for more than a model's limits is refused by name, wherever the engines would read it."""

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ichat.front.caps import Caps, keys_of
from ichat.front.json_search import BodyError, JSONSearch
from ichat.ipc import messages
from tests.unit.front.raw_client import CHAT, Response, request
from tests.unit.front.running_front import FrontUnderTest, running_front
from tests.unit.front.scripted_worker import ScriptedWorker
from tests.unit.front.test_model_name import VALUES, form

LIMITS: dict[str, int | None] = {"n": 4, "max_tokens": 4096}

TOO_MUCH = [
    ({"n": 5}, "n: 5", "limit_n"),
    ({"n": 1_000_000}, "n: 1000000", "limit_n"),
    ({"n": 5.0}, "n: 5.0", "limit_n"),
    ({"n": "1000000"}, "n: 1000000", "limit_n"),
    ({"n": 10**30}, "n: 1e+30", "limit_n"),
    ({"best_of": 5}, "best_of: 5", "limit_n"),
    ({"max_tokens": 4097}, "max_tokens: 4097", "limit_max_tokens"),
    ({"max_tokens": 1e9}, "max_tokens: 1000000000.0", "limit_max_tokens"),
    ({"max_completion_tokens": 4097}, "max_completion_tokens: 4097", "limit_max_tokens"),
    ({"max_output_tokens": 4097}, "max_output_tokens: 4097", "limit_max_tokens"),
    ({"max_tokens": 1, "max_completion_tokens": 4097}, "max_completion_tokens", "limit_max_tokens"),
    ({"sampling_params": {"max_new_tokens": 4097}}, "sampling_params.max_new_tokens: 4097", "limit_max_tokens"),
    ({"sampling_params": {"n": 5}}, "sampling_params.n: 5", "limit_n"),
    ({"sampling_params": {"max_tokens": 4097}}, "sampling_params.max_tokens", "limit_max_tokens"),
    ({"sampling_params": [{"n": 1}, {"n": 5}]}, "sampling_params.n: 5", "limit_n"),
    ({"parameters": {"sampling_params": {"n": 5}}}, "parameters.sampling_params.n: 5", "limit_n"),
    ({"options": {"num_predict": 4097}}, "options.num_predict: 4097", "limit_max_tokens"),
]
WITHIN: list[dict[str, Any]] = [
    {},
    {"n": 4, "best_of": 4, "max_tokens": 4096, "max_completion_tokens": 4096},
    {"n": None, "max_tokens": None, "sampling_params": None},
    {"n": "many", "max_tokens": [9999], "sampling_params": "x"},
    {"sampling_params": [{"n": 4, "max_new_tokens": 1}, 5, None]},
    {"messages": [{"n": 5, "max_tokens": 10**9}], "metadata": {"n": 5}},
    {"max_tokens": -1},
]


def padded(fields: dict[str, Any], where: str) -> bytes:
    """Longer than what is parsed at once."""
    padding = {"messages": ["x" * 1_100_000]}
    document = {"model": "demo", **fields, **padding} if where == "before" else {**padding, "model": "demo", **fields}
    return json.dumps(document).encode()


@pytest.fixture
async def capped(worker: ScriptedWorker) -> AsyncIterator[FrontUnderTest]:
    async with running_front() as front:
        front.routes(worker, limits=LIMITS)
        await front.settle()
        yield front


@pytest.mark.parametrize("size", ["short", "before", "behind"])
@pytest.mark.parametrize(("fields", "shown", "setting"), TOO_MUCH)
async def test_what_asks_too_much_never_reaches_the_engine(
    capped: FrontUnderTest, worker: ScriptedWorker, fields: dict[str, Any], shown: str, setting: str, size: str
) -> None:
    body = json.dumps({"model": "demo", **fields}).encode() if size == "short" else padded(fields, size)
    response = await capped.ask(request(body=body))
    assert (response.status, response.code) == (400, "limit_exceeded")
    message = response.json()["error"]["message"]
    assert shown in message
    assert f"{setting}: {LIMITS[setting.removeprefix('limit_')]}" in message
    assert len(message) < 200
    assert worker.seen == []


@pytest.mark.parametrize("size", ["short", "before", "behind"])
@pytest.mark.parametrize("fields", WITHIN)
async def test_what_is_within_the_limits_passes(
    capped: FrontUnderTest, worker: ScriptedWorker, fields: dict[str, Any], size: str
) -> None:
    body = json.dumps({"model": "demo", **fields}).encode() if size == "short" else padded(fields, size)
    assert (await capped.ask(request(body=body))).status == 200
    assert worker.seen[0].body == body


async def test_a_refusal_takes_no_time(capped: FrontUnderTest) -> None:
    client = await capped.connect()
    took: list[float] = []
    for _ in range(50):
        began = time.perf_counter()
        await client.send(request(body=b'{"model": "demo", "n": 1000000}'))
        assert (await client.response()).status == 400
        took.append(time.perf_counter() - began)
    client.close()
    assert sorted(took)[25] < 0.01


async def test_without_limits_nothing_is_refused(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    for fields, _, _ in TOO_MUCH:
        assert (await front.ask(request(body=json.dumps(fields).encode()))).status == 200
    assert len(worker.seen) == len(TOO_MUCH)


async def test_the_limits_of_one_model_are_not_those_of_another(worker: ScriptedWorker) -> None:
    async with running_front() as front:
        one = messages.Instance("a/0", "1", worker.path)
        models = [
            messages.RouteModel(name, [name], "fake", "ready", "", 1.0, [one], limits=limits)
            for name, limits in (("free", {}), ("tight", LIMITS))
        ]
        await front.tell(messages.Routes(models, was_ready=True))
        for name, status in (("free", 200), ("tight", 400)):
            for filler in ("", "x" * 1_100_000):
                body = json.dumps({"x": filler, "model": name, "n": 100}).encode()
                assert (await front.ask(request(body=body))).status == status


async def test_a_body_longer_than_its_model_takes_is_refused_and_the_connection_goes_on(
    worker: ScriptedWorker,
) -> None:
    async with running_front() as front:
        front.routes(worker, limits={"body_bytes": 100})
        await front.settle()
        client = await front.connect()
        await client.send(request(body=b'{"x": "' + b"a" * 91 + b'"}') + request(body=b'{"x": "' + b"a" * 92 + b'"}'))
        assert (await client.response()).status == 200
        response = await client.response()
        assert (response.status, response.code) == (413, "body_too_large")
        assert "limit_body_bytes of demo" in response.json()["error"]["message"]
        await client.send(request(body=b"{}"))
        assert (await client.response()).status == 200
        client.close()


# ---- long bodies ---------------------------------------------------------------------------------------------------

CAPS = Caps.of(messages.RouteModel("demo", ["demo"], "fake", "ready", "", 1.0, [], limits=LIMITS))
KEYS = keys_of([CAPS] if CAPS else [])
#: Whole numbers that do not fit into 64 bits are floats to the parser of the path, and large enough either way.
INTEGERS = st.integers(-(2**63), 2**63)
FIELD_VALUES = (
    st.none() | st.booleans() | INTEGERS | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9)
)
FIELDS = st.dictionaries(
    st.sampled_from(sorted(KEYS)),
    FIELD_VALUES | st.dictionaries(st.sampled_from(["n", "max_new_tokens", "x"]), FIELD_VALUES, max_size=3),
    max_size=4,
)


@given(FIELDS, st.dictionaries(st.text(max_size=6), VALUES, max_size=5), st.randoms(), st.booleans())
def test_the_slow_search_collects_what_the_parser_finds(
    fields: dict[str, Any], others: dict[str, Any], chance: Any, is_spread: bool
) -> None:
    items = [*fields.items(), *((key, value) for key, value in others.items() if key not in KEYS)]
    items = [item for item in items if item[0] != "model"] + [("model", "demo")]
    chance.shuffle(items)
    body = json.dumps(dict(items), indent=1 if is_spread else None).encode("utf-8", "surrogatepass")
    search = JSONSearch(body, KEYS)
    while not search.step():
        pass
    assert search.name == "demo"
    assert search.fields == [(key, value) for key, value in json.loads(body).items() if key in KEYS]


def collected(body: bytes) -> list[tuple[str, Any]]:
    search = JSONSearch(body, KEYS)
    while not search.step():
        pass
    return search.fields


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b'{"\\u006e": 9}', [("n", 9)]),
        (b'{"' + b"".join(b"\\u%04x" % ord(one) for one in "max_completion_tokens") + b'": 9}', [("max_completion_tokens", 9)]),
        (b'{"n": 1, "n": 9}', [("n", 1), ("n", 9)]),
        (b'{"n"' + b" " * 1000 + b":" + b"\n" * 1000 + b"9}", None),
        (b'{"n"' + b" " * 2000 + b": 9}", None),
        (b'{"n": ' + b"0" * 500 + b"9}", None),
        (b'{"n": nonsense}', None),
        (b'{"n": "' + b"9" * 500 + b'"}', None),
        (b'{"sampling_params": {"x": "' + b"a" * 1_050_000 + b'", "n": 9}}', None),
        (b'{"sampling_params": {"n": 9', []),
        (b'{"x": [' + b'"",' * 2_100_000, None),
        ('{"n": 9}'.encode("utf-16-le"), None),
        (b'{"a": "n", "b": 1}', []),
    ],
)  # fmt: skip
def test_what_could_hide_a_value_is_refused(body: bytes, fields: list[tuple[str, Any]] | None) -> None:
    """None: the body is not let through at all."""
    if fields is None:
        with pytest.raises(BodyError):
            collected(body)
    else:
        assert collected(body) == fields


async def test_a_long_body_is_looked_through_without_stalling_the_loop(capped: FrontUnderTest) -> None:
    body = b'{"messages": [' + b'"a", ' * 1_500_000 + b'1], "model": "demo", "n": 5}'
    began = time.thread_time()
    response = await capped.ask(request(body=body))
    assert (response.status, response.code) == (400, "limit_exceeded")
    assert time.thread_time() - began < 5


# ---- forms ---------------------------------------------------------------------------------------------------------


async def send_form(front: FrontUnderTest, body: bytes) -> Response:
    head = "Content-Type: multipart/form-data; boundary=XX\r\n"
    return await front.ask(request(target="/v1/audio/transcriptions", body=body, headers=head))


async def test_a_form_is_held_to_the_limits_too(capped: FrontUnderTest, worker: ScriptedWorker) -> None:
    audio = bytes(range(256)) * 8000
    assert (await send_form(capped, form(("model", b"demo"), ("n", b"4"), ("file", audio)))).status == 200
    for parts in (
        (("model", b"demo"), ("file", audio), ("n", b"5")),
        (("max_completion_tokens", b"4097"), ("model", b"demo"), ("file", audio)),
        (("model", b"demo"), ("n", b"1"), ("n", b"5")),
    ):
        response = await send_form(capped, form(*parts))
        assert (response.status, response.code) == (400, "limit_exceeded")
    assert len(worker.seen) == 1


@pytest.mark.parametrize(
    "disposition",
    [
        "form-data; name*=utf-8''n",
        'form-data; filename="name=x"; name="n"',
        'form-data; name="x"; name="n"',
        'form-data; name="n\\""',
        "attachment; name=n",
        "",
    ],
)
async def test_a_part_whose_name_could_be_read_in_two_ways_is_refused(
    capped: FrontUnderTest, worker: ScriptedWorker, disposition: str
) -> None:
    part = f"--XX\r\nContent-Disposition: {disposition}\r\n\r\n5\r\n--XX--\r\n".encode()
    response = await send_form(capped, part)
    assert (response.status, response.code) == (400, "invalid_body")
    assert worker.seen == []


async def test_parts_as_clients_write_them_pass(capped: FrontUnderTest, worker: ScriptedWorker) -> None:
    heads = (
        'Content-Disposition: form-data; name="file"; filename="a;b c.wav"\r\nContent-Type: audio/wav',
        "Content-Type: audio/wav\r\ncontent-disposition: form-data; name=\"file\"; filename*=utf-8''%C3%A9.wav",
        'content-disposition:form-data;name="language"',
    )
    body = b"".join(b"--XX\r\n%b\r\n\r\nabc\r\n" % head.encode() for head in heads)
    assert (await send_form(capped, body + form(("model", b"demo"), boundary=b"XX"))).status == 200
    assert len(worker.seen) == 1


def test_a_model_without_limits_has_no_caps() -> None:
    for limits in ({}, {"n": None, "max_tokens": None, "body_bytes": None, "concurrent": 3, "queued": 256}):
        route = messages.RouteModel("m", ["m"], "fake", "ready", "", 0.0, [], limits=limits)
        assert Caps.of(route) is None


async def test_a_preflight_and_a_get_are_not_held_to_limits(capped: FrontUnderTest, worker: ScriptedWorker) -> None:
    assert (await capped.ask(request("OPTIONS", CHAT, None))).status == 204
    assert (await capped.get("/version")).status == 200
    assert len(worker.seen) == 1
