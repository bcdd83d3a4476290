"""Which model a request asks for, found in its body without ever holding up the other streams for long."""

from __future__ import annotations

import re
from typing import Protocol

import orjson

from ichat.front.request import Request

#: Parsed whole, in a few milliseconds at most; longer bodies are searched slice by slice.
_PARSED_LIMIT_BYTES = 1024 * 1024
_SLICE_BYTES = 64 * 1024
_NAME_LIMIT_BYTES = 1024
_DEPTH_LIMIT = 1024
#: A body of nothing but brackets and quotes is given up after about a second of work, done in slices.
_TOKEN_LIMIT = 2_000_000
_PART_HEAD_LIMIT_BYTES = 8 * 1024

_OUTSIDE_STRINGS = re.compile(rb'["{}\[\]]')
_COLON = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*")
_NAME = re.compile(rb'"(?:[^"\\]|\\.){0,1024}"')
_OBJECT = re.compile(rb"[ \t\r\n]*\{")
_BOUNDARY = re.compile(rb'multipart/form-data\b.*?\bboundary=(?:"([^"]{1,200})"|([^\s;,"]{1,200}))', re.IGNORECASE)
_MODEL_PART = re.compile(rb'\bname="?model"?\s*(?:;|\r|$)', re.IGNORECASE)


class BodyError(ValueError):
    """The body cannot be understood; the text is for the client."""


class Search(Protocol):
    """``step`` looks at the next slice and says whether the search is over; then ``name`` is the model, or None."""

    name: str | None

    def step(self) -> bool: ...


def search(request: Request) -> Search | str | None:
    """The model's name; None where the request names none; or a search to be stepped through. Raises BodyError."""
    kind = "none" if request.route is None or request.method == b"OPTIONS" else request.route.body
    if kind == "form":
        return FormSearch(request.body, _boundary(b"".join(request.values(b"content-type"))))
    if kind == "none":
        return None
    return name_in_json(request.body) if len(request.body) <= _PARSED_LIMIT_BYTES else JSONSearch(request.body)


def name_in_json(body: bytes | bytearray) -> str | None:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BodyError(_place(error, body)) from None
    if type(document) is not dict:
        raise BodyError("body: not a JSON object. Send {...}.")
    name = document.get("model")
    if name is not None and type(name) is not str:
        raise BodyError("model: not a string. Send the name of a model.")
    return name


def _place(error: orjson.JSONDecodeError, body: bytes | bytearray) -> str:
    if not body:
        return "body: empty. Send a JSON object."
    try:
        # The parser counts characters, people and editors look for bytes.
        offset = len(body.decode()[: error.pos].encode())
    except UnicodeDecodeError as not_text:
        return f"body: not UTF-8 at byte {not_text.start}. Send JSON as UTF-8."
    return f"body: not JSON at byte {offset}: {error.msg}. Correct it."


class JSONSearch:
    """Looks for the first "model" of the outermost object, and at nothing else: the engine parses the rest."""

    __slots__ = ("_body", "_depth", "_open_escape", "_position", "_string_start", "_tokens", "name")

    def __init__(self, body: bytes | bytearray) -> None:
        if (start := _OBJECT.match(body)) is None:
            raise BodyError("body: not a JSON object at byte 0. Send {...}.")
        self._body, self._position = body, start.end()
        self._depth = 1
        self._string_start = -1  # of the string that we are in
        self._open_escape = 0  # 1: the slice before ended in an odd number of backslashes
        self._tokens = 0
        self.name: str | None = None

    def step(self) -> bool:
        end = min(self._position + _SLICE_BYTES, len(self._body))
        while self._position < end:
            is_over = self._cross_string(end) if self._string_start >= 0 else self._find_token(end)
            if is_over:
                return True
        return end == len(self._body)

    def _find_token(self, end: int) -> bool:
        if (token := _OUTSIDE_STRINGS.search(self._body, self._position, end)) is None:
            self._position = end
            return False
        self._position = token.end()
        self._tokens += 1
        character = self._body[token.start()]
        if character == 0x22:  # a quote
            self._string_start = self._position
        elif character in b"{[":
            self._depth += 1
            if self._depth > _DEPTH_LIMIT:
                raise BodyError(f"body: nested deeper than {_DEPTH_LIMIT} at byte {token.start()}. Nest less.")
        else:
            self._depth -= 1
        return self._depth == 0 or self._tokens > _TOKEN_LIMIT

    def _cross_string(self, end: int) -> bool:
        """To the end of the string, or of the slice; True when the string was the key that we look for."""
        body = self._body
        quote = body.find(b'"', self._position, end)
        piece = body[self._position : quote if quote >= 0 else end]
        backslashes = len(piece) - len(piece.rstrip(b"\\"))
        if backslashes == len(piece):
            backslashes += self._open_escape
        self._position = quote + 1 if quote >= 0 else end
        self._open_escape = backslashes % 2 if quote < 0 else 0
        if quote < 0 or backslashes % 2:  # no quote, or one that belongs to the string
            return False
        start, self._string_start = self._string_start, -1
        if self._depth != 1 or quote - start > 64 or _string(body, start, quote) != "model":
            return False
        if (colon := _COLON.match(body, self._position, self._position + _NAME_LIMIT_BYTES)) is None:
            return False
        self.name = _value(body, colon.end())
        return True


def _string(body: bytes | bytearray, start: int, end: int) -> str:
    try:
        return str(orjson.loads(b'"%b"' % bytes(body[start:end])))
    except orjson.JSONDecodeError:
        raise BodyError(f"body: not JSON at byte {start}: an invalid string. Correct it.") from None


def _value(body: bytes | bytearray, start: int) -> str | None:
    if body[start : start + 4] == b"null":
        return None
    if (found := _NAME.match(body, start)) is None:
        raise BodyError(f"model: not a string, at byte {start}. Send the name of a model.")
    return _string(body, found.start() + 1, found.end() - 1)


def _boundary(content_type: bytes) -> bytes:
    if (found := _BOUNDARY.match(content_type)) is None:
        raise BodyError("Content-Type: not multipart/form-data with a boundary. Send a form.")
    return bytes(found[1] or found[2])


class FormSearch:
    """Looks for the part called model; of the others it reads the heads only."""

    __slots__ = ("_body", "_delimiter", "_position", "name")

    def __init__(self, body: bytes | bytearray, boundary: bytes) -> None:
        if not body.startswith(b"--" + boundary):
            raise BodyError("body: does not begin with the form's boundary, at byte 0. Send a form.")
        self._body, self._delimiter = body, b"\r\n--" + boundary
        self._position = len(boundary) + 2  # behind a delimiter, unless the slice before had none
        self.name: str | None = None
        self._read_part()

    def step(self) -> bool:
        body, delimiter = self._body, self._delimiter
        end = min(self._position + 16 * _SLICE_BYTES, len(body))
        while self.name is None and (found := body.find(delimiter, self._position, end)) >= 0:
            self._position = found + len(delimiter)
            self._read_part()
        if self.name is not None or end == len(body):
            return True
        # A delimiter may lie across the edge of the slice.
        self._position = max(self._position, end - len(delimiter))
        return False

    def _read_part(self) -> None:
        body, start = self._body, self._position
        head_end = body.find(b"\r\n\r\n", start, start + _PART_HEAD_LIMIT_BYTES)
        if head_end < 0 or not _MODEL_PART.search(body[start:head_end]):
            return
        value_end = body.find(self._delimiter, head_end + 4, head_end + 4 + _NAME_LIMIT_BYTES)
        if value_end < 0:
            raise BodyError("model: not a name. Send the name of a model.")
        self.name = body[head_end + 4 : value_end].decode("utf-8", "replace")
