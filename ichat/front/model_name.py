"""Which model a request asks for, found in its body without ever holding up the other streams for long."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, Protocol

import orjson

from ichat.front import query
from ichat.front.json_search import NO_KEYS, BodyError, JSONSearch
from ichat.front.request import Request

#: Parsed whole, in a few milliseconds at most; longer bodies are searched slice by slice.
_PARSED_LIMIT_BYTES = 1024 * 1024
_FORM_SLICE_BYTES = 1024 * 1024
_NAME_LIMIT_BYTES = 1024
_PART_HEAD_LIMIT_BYTES = 8 * 1024
#: What names the model of a request whose body does not.
_HEADER = b"x-ichat-model"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_WIDE_MARKS = (b"\xff\xfe", b"\xfe\xff")
#: What HTML forms are sent as, and what curl says of a body unless it is told otherwise.
_FORMS = (b"multipart/form-data", b"application/x-www-form-urlencoded")

_BOUNDARY = re.compile(rb'multipart/form-data\b.*?\bboundary=(?:"([^"]{1,200})"|([^\s;,"]{1,200}))', re.IGNORECASE)
_MODEL_PART = re.compile(rb'\bname="?model"?\s*(?:;|\r|$)', re.IGNORECASE)
#: As clients write it. Where a limit depends on it, no other spelling is accepted: it could be read in two ways.
_PLAIN_PART = re.compile(
    rb'content-disposition:\s*form-data;\s*name="([^"\\;]*)"'
    rb'(?:;\s*filename="[^"\\]*")?(?:;\s*filename\*=[^\s;"]*)?\s*(?:\r\n|$)',
    re.IGNORECASE,
)


class Search(Protocol):
    """``step`` looks at the next slice and says whether the search is over.

    Then ``name`` is the model, or None, and ``fields`` are the values of the keys that were looked for.
    """

    name: str | None
    fields: list[tuple[str, Any]]

    def step(self) -> bool: ...


def search(
    request: Request, keys: Mapping[str, bytes] = NO_KEYS, fewer_keys: Mapping[str, bytes] = NO_KEYS
) -> Search | dict[str, Any] | None:
    """The document; None where the request has none; or a search to be stepped through. Raises BodyError.

    ``keys`` are those that a search has to find beside the model, with how their values begin where they matter;
    ``fewer_keys`` are those where nothing is generated, and in a form.
    """
    kind = "none" if request.route is None else request.route.body
    if kind == "form":
        return FormSearch(request.body, _boundary(b"".join(request.values(b"content-type"))), fewer_keys)
    if kind == "none":
        return None
    if request.body[:1] != b"{" or request.body[1:2] == b"\0":
        _check_beginning(request)
    if len(request.body) <= _PARSED_LIMIT_BYTES:
        return parsed(request.body)
    generates = request.route is None or request.route.generates
    return JSONSearch(request.body, keys if generates else fewer_keys)


def _check_beginning(request: Request) -> None:
    """Tell what people send instead of JSON: the parser would only say that it has met a strange byte."""
    body = request.body
    if body.startswith(_BYTE_ORDER_MARK):
        raise BodyError("body: begins with a byte order mark. Send JSON as UTF-8 without it.")
    if body.startswith(_WIDE_MARKS) or b"\0" in body[:4]:  # of the first two characters, which JSON has from ASCII
        raise BodyError("body: is UTF-16 or UTF-32. Send JSON as UTF-8.")
    content_type = b"".join(request.values(b"content-type")).partition(b";")[0].strip().lower()
    if content_type in _FORMS and body.lstrip()[:1] not in (b"{", b"["):
        shown = content_type.decode("latin-1")
        raise BodyError(f"Content-Type: {shown}, and the body is a form; JSON is expected here. Send application/json.")


def outside(request: Request) -> str | None:
    """The model that the request names elsewhere: ``?model=…`` or the header ``x-ichat-model``."""
    if (name := query.parameter(request.target, b"model")) is not None:
        return name
    values = request.values(_HEADER)
    return values[0].decode("utf-8", "replace") if values else None


def parsed(body: bytes | bytearray) -> dict[str, Any]:
    """The document of a body, with a model that is a text, if there is one."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BodyError(_place(error, body)) from None
    if type(document) is not dict:
        raise BodyError("body: not a JSON object. Send {...}.")
    name = document.get("model")
    if name is not None and type(name) is not str:
        raise BodyError("model: not a string. Send the name of a model.")
    return document


def _place(error: orjson.JSONDecodeError, body: bytes | bytearray) -> str:
    if not body:
        return "body: empty. Send a JSON object."
    try:
        # The parser counts characters, people and editors look for bytes.
        offset = len(body.decode()[: error.pos].encode())
    except UnicodeDecodeError as not_text:
        return f"body: not UTF-8 at byte {not_text.start}. Send JSON as UTF-8."
    return f"body: not JSON at byte {offset}: {error.msg}. Correct it."


def _boundary(content_type: bytes) -> bytes:
    if (found := _BOUNDARY.match(content_type)) is None:
        raise BodyError("Content-Type: not multipart/form-data with a boundary. Send a form.")
    return bytes(found[1] or found[2])


class FormSearch:
    """Looks for the part called model, to the end of the form; of the others it reads the heads only.

    With ``keys`` it collects the values of the parts that are called so.
    """

    __slots__ = ("_body", "_delimiter", "_keys", "_position", "fields", "name")

    def __init__(self, body: bytes | bytearray, boundary: bytes, keys: Collection[str] = ()) -> None:
        if not body.startswith(b"--" + boundary):
            raise BodyError("body: does not begin with the form's boundary, at byte 0. Send a form.")
        self._body, self._delimiter, self._keys = body, b"\r\n--" + boundary, keys
        self._position = len(boundary) + 2  # behind a delimiter, unless the slice before had none
        self.name: str | None = None
        self.fields: list[tuple[str, Any]] = []
        self._read_part()

    def step(self) -> bool:
        body, delimiter = self._body, self._delimiter
        end = min(self._position + _FORM_SLICE_BYTES, len(body))
        while (found := body.find(delimiter, self._position, end)) >= 0:
            self._position = found + len(delimiter)
            self._read_part()
        if end == len(body):
            return True
        # A delimiter may lie across the edge of the slice.
        self._position = max(self._position, end - len(delimiter))
        return False

    def _read_part(self) -> None:
        body, start = self._body, self._position
        if self._keys and body[start : start + 2] == b"--":  # the end of the form
            return
        head_end = body.find(b"\r\n\r\n", start, start + _PART_HEAD_LIMIT_BYTES)
        head = bytes(body[start : max(head_end, start)])
        if self._keys:
            self._take(self._plain_name(head), head_end + 4)
        elif head_end >= 0 and _MODEL_PART.search(head):
            self._take("model", head_end + 4)

    def _plain_name(self, head: bytes) -> str:
        found = _PLAIN_PART.search(head)
        if found is None or head.lower().count(b"content-disposition") != 1:
            message = "a part's Content-Disposition is not plain"
            raise BodyError(f'body: {message}, at byte {self._position}. Send form-data; name="…"; filename="…".')
        return found[1].decode("utf-8", "replace")

    def _take(self, name: str, start: int) -> None:
        if name == "model":
            if self.name is not None:
                raise BodyError(f"model: stands twice, at byte {start}. Send it once.")
            self.name = self._value(name, start)
        elif name in self._keys:
            self.fields.append((name, self._value(name, start)))

    def _value(self, name: str, start: int) -> str:
        end = self._body.find(self._delimiter, start, start + _NAME_LIMIT_BYTES)
        if end < 0:
            raise BodyError(f"{name}: longer than {_NAME_LIMIT_BYTES} bytes, or without an end. Shorten it.")
        return self._body[start:end].decode("utf-8", "replace")
