"""The model's name is found wherever it stands, and a body that hides it costs no more than its length."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ichat.front.json_search import BodyError, JSONSearch
from ichat.front.model_name import FormSearch, parsed, search
from ichat.front.request import Request
from ichat.front.routes import find_route

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(["model", 'a"b', "\\", '\\"', "{", "]"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6) | st.just("model"), inner, max_size=4)
    ),
    max_leaves=20,
)


def run(one: JSONSearch | FormSearch) -> str | None:
    while not one.step():
        pass
    return one.name


@given(st.dictionaries(st.text(max_size=6), VALUES, max_size=6), st.text(max_size=20) | st.none(), st.data())
def test_the_slow_search_finds_what_the_parser_finds(document: dict, name: str | None, data: st.DataObject) -> None:
    document.pop("model", None)
    items = list(document.items())
    items.insert(data.draw(st.integers(0, len(items))), ("model", name))
    indent, is_ascii = data.draw(st.sampled_from([None, 2])), data.draw(st.booleans())
    body = json.dumps(dict(items), indent=indent, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass")
    assert run(JSONSearch(body)) == parsed(body).get("model") == name


def test_the_slow_search_works_across_slices() -> None:
    chance = random.Random(3)
    for _ in range(30):
        noise = "".join(chance.choice('\\"{}[]x') for _ in range(150_000))
        body = json.dumps({"a": noise, "b": [noise], "model": "demo"}).encode()
        assert run(JSONSearch(body)) == "demo"


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b'{"\\u006dodel": "d\\u0065mo"}', "demo"),
        (b' \n{ "model"\t:\r\n "demo"}', "demo"),
        (b'{"a": {"model": "inner"}}', None),
        (b'{"a": ["model", "x"], "model": null}', None),
        (b'{"a": "\\"model\\": \\"x\\""}', None),
    ],
)
def test_only_the_outermost_key_counts(body: bytes, name: str | None) -> None:
    assert run(JSONSearch(body)) == name


@pytest.mark.parametrize(
    "body", [b"[1]", b"  5", b'{"model": 5}', b'{"model": {}}', b'{"model": "unended', b"{" + b'"a":[' * 2000]
)
def test_what_the_slow_search_cannot_take_is_an_error(body: bytes) -> None:
    with pytest.raises(BodyError):
        run(JSONSearch(body))


@pytest.mark.parametrize(
    ("body", "place"),
    [
        (b'{"a": nope}', 6),
        ('{"é": nope}'.encode(), 7),
        (b'{"a": NaN}', 6),
        (b'{"a": "\\ud800"}', 7),
        (b'{"a": "\xff"}', 7),
    ],
)
def test_a_mistake_is_placed_by_its_byte(body: bytes, place: int) -> None:
    with pytest.raises(BodyError, match=f"at byte {place}\\b"):
        parsed(body).get("model")


def test_backslashes_cost_no_more_than_their_number() -> None:
    body = b'{"a": "' + b"\\" * 2_000_000 + b'", "b": "' + b'\\"' * 500_000 + b'", "model": "demo"}'
    assert run(JSONSearch(body)) == "demo"


def form(*parts: tuple[str, bytes], boundary: bytes = b"XX") -> bytes:
    text = b""
    for name, value in parts:
        head = f'Content-Disposition: form-data; name="{name}"'.encode()
        text += b"--" + boundary + b"\r\n" + head + b"\r\n\r\n" + value + b"\r\n"
    return text + b"--" + boundary + b"--\r\n"


@pytest.mark.parametrize("size", [0, 10, 1_048_570, 1_048_576 * 2 + 5])
def test_a_forms_model_is_found_behind_any_file(size: int) -> None:
    audio = bytes(range(256)) * (size // 256 + 1)
    assert run(FormSearch(form(("file", audio[:size]), ("model", b"demo")), b"XX")) == "demo"
    assert run(FormSearch(form(("model", b"demo"), ("file", audio[:size])), b"XX")) == "demo"
    assert run(FormSearch(form(("file", audio[:size]), ("my_model", b"x")), b"XX")) is None


def test_a_form_needs_its_boundary() -> None:
    request = Request()
    request.method, request.route = b"POST", find_route(b"/v1/audio/transcriptions")
    request.body = form(("model", b"demo"))
    request.headers = [b"Content-Type", b": ", b'multipart/form-data; charset=utf-8; boundary="XX"', b"\r\n"]
    found = search(request)
    assert isinstance(found, FormSearch)
    assert run(found) == "demo"
    for wrong in (b"application/json", b"multipart/form-data"):
        request.headers[2] = wrong
        with pytest.raises(BodyError):
            search(request)


@pytest.mark.parametrize("dense", [b'{"a":[]},', b'"":[{}],', b"[],", b'"\\"\\"\\"\\"\\"\\"\\"\\"",'])
def test_no_step_of_a_search_passes_more_than_a_millisecond_or_two_of_work(dense: bytes) -> None:
    """Between two steps every other stream has its turn. Bytes alone do not bound the work: one may be a string's end."""
    filler = dense * 20_000
    if dense.startswith(b'"":'):
        body = b'{"model": "demo", "x": {' + filler + b'"z": 1}}'
    else:
        body = b'{"model": "demo", "x": [' + filler + b"1]}"
    looked_for, steps = JSONSearch(body), 1
    while not looked_for.step():
        steps += 1
    assert looked_for.name == "demo"
    assert steps >= (filler.count(b'"') / 2 + filler.count(b"[")) / 1000
