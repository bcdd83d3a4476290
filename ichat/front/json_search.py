"""Keys of the outermost object of a JSON body that is too long to be parsed at once, slice by slice."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import orjson

_SLICE_BYTES = 64 * 1024
#: Strings, brackets and escaped quotes that one step passes at most, in one or two milliseconds: 64 KiB may hold thirty
#: times as many, and all streams wait meanwhile.
_SLICE_LOOKS = 1000
_NAME_LIMIT_BYTES = 1024
_DEPTH_LIMIT = 1024
#: A body of nothing but brackets and quotes is given up after about a second of work, done in slices.
_TOKEN_LIMIT = 2_000_000
#: Of the keys of an object in the list `messages`.
_MESSAGE_DEPTH = 3
_TOOLS = "tools"
#: Longer than any key that we look for, even if all of its characters are written as \\u006e.
_KEY_LIMIT_BYTES = 160
#: A longer value of a key that we look for is not one that anybody means; it is parsed at once.
_VALUE_LIMIT_BYTES = 1024 * 1024

_OUTSIDE_STRINGS = re.compile(rb'["{}\[\]]')
_COLON = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*")
_NAME = re.compile(rb'"(?:[^"\\]|\\.){0,1024}"')
_OBJECT = re.compile(rb"[ \t\r\n]*\{")
_SCALAR_LIMIT_BYTES = 400
_SCALAR = re.compile(rb'[^\s,\]}"]{1,%d}|"(?:[^"\\]|\\.){0,%d}"' % (_SCALAR_LIMIT_BYTES, _SCALAR_LIMIT_BYTES))
_TEXT = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
NO_KEYS: Mapping[str, bytes] = MappingProxyType({})


class BodyError(ValueError):
    """The body cannot be understood; the text is for the client."""


class JSONSearch:
    """Looks for the "model" of the outermost object, to its end: of two the engines would take the last.

    With ``keys`` it collects the values of these, too, in ``fields``: all of them, also of a key that is there twice,
    that begin with one of the bytes which belong to the key, if any do. What cannot be understood is an error then,
    since it would get past a limit.
    """

    __slots__ = (
        "_body",
        "_depth",
        "_has_model",
        "_keys",
        "_open_escape",
        "_position",
        "_string_start",
        "_tokens",
        "_value_depth",
        "_value_start",
        "_wanted",
        "fields",
        "name",
    )

    def __init__(self, body: bytes | bytearray, keys: Mapping[str, bytes] = NO_KEYS) -> None:
        if (start := _OBJECT.match(body, 0, _SLICE_BYTES)) is None:
            raise BodyError("body: not a JSON object at byte 0. Send {...}.")
        self._body, self._position, self._keys = body, start.end(), keys
        self._depth = 1
        self._string_start = -1  # of the string that we are in
        self._open_escape = 0  # 1: the slice before ended in an odd number of backslashes
        self._tokens = 0
        self._wanted, self._value_start, self._value_depth = "", -1, 1  # the key whose list or object we are in
        self._has_model = False  # perhaps null
        self.name: str | None = None
        self.fields: list[tuple[str, Any]] = []

    def step(self) -> bool:
        end = min(self._position + _SLICE_BYTES, len(self._body))
        if (at := self._body.find(b"\0", self._position, end)) >= 0:
            # No JSON in UTF-8 has it, but every JSON in UTF-16, which some parsers take and in which we see nothing.
            raise BodyError(f"body: not JSON at byte {at}: a zero byte. Send JSON as UTF-8.")
        for _ in range(_SLICE_LOOKS):
            if self._position >= end:
                break
            is_over = self._cross_string(end) if self._string_start >= 0 else self._find_token(end)
            if is_over:
                return True
        return self._position >= len(self._body)

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
            if self._wanted and self._depth == self._value_depth:
                self._end_container()
        return self._is_over()

    def _is_over(self) -> bool:
        if self._tokens > _TOKEN_LIMIT:
            raise BodyError(f"body: more than {_TOKEN_LIMIT} strings and brackets. Send less.")
        return self._depth == 0

    def _cross_string(self, end: int) -> bool:
        """To the end of the string, or of the slice; never the end of the search."""
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
        if quote - start > _KEY_LIMIT_BYTES or not (self._depth == 1 or self._may_be_of_message(start, quote)):
            return False
        self._look_at(_string(body, start, quote))
        return False

    def _may_be_of_message(self, start: int, end: int) -> bool:
        """Whether it may be the key `tools` of a message, which SGLang adds to those of the request."""
        if self._depth != _MESSAGE_DEPTH or self._wanted or _TOOLS not in self._keys:
            return False
        text = self._body[start:end]
        return text == _TOOLS.encode() or (b"\\" in text and _string(self._body, start, end) == _TOOLS)

    def _look_at(self, key: str) -> None:
        """A string that may be a key that we look for."""
        is_model = key == "model" and self._depth == 1
        if not is_model and key not in self._keys:
            return
        if (colon := _COLON.match(self._body, self._position, self._position + _NAME_LIMIT_BYTES)) is None:
            if self._keys and self._body[self._position : self._position + _NAME_LIMIT_BYTES].isspace():
                raise BodyError(f"{key}: no colon behind it, at byte {self._position}. Correct it.")
            return
        if self._keys and colon.end() - self._position >= _NAME_LIMIT_BYTES:
            raise BodyError(f"{key}: no value behind its colon, at byte {self._position}. Correct it.")
        if not is_model:
            self._take_value(key, colon.end())
        elif self._has_model:
            raise BodyError(f"model: stands twice, at byte {colon.end()}. Send it once.")
        else:
            self._has_model, self.name = True, _name(self._body, colon.end())

    def _take_value(self, key: str, start: int) -> None:
        body, openers = self._body, self._keys[key]
        if openers and body[start : start + 1] not in openers:
            return
        if openers and self._depth == 1 and any(key == known for known, _ in self.fields):
            raise BodyError(f"{key}: stands twice, at byte {start}. Send it once.")
        if body[start : start + 1] in (b"{", b"["):
            self._wanted, self._value_start, self._value_depth = key, start, self._depth
            return
        if openers:
            if (found := _TEXT.match(body, start, start + _VALUE_LIMIT_BYTES)) is None:
                raise BodyError(f"{key}: longer than {_VALUE_LIMIT_BYTES} bytes, at byte {start}. Shorten it.")
        elif (found := _SCALAR.match(body, start)) is None or len(found[0]) >= _SCALAR_LIMIT_BYTES:
            raise BodyError(f"{key}: not a value of JSON, at byte {start}. Correct it.")
        self.fields.append((key, _value(key, found[0], start)))

    def _end_container(self) -> None:
        key, start, self._wanted = self._wanted, self._value_start, ""
        if self._position - start > _VALUE_LIMIT_BYTES:
            raise BodyError(f"{key}: longer than {_VALUE_LIMIT_BYTES} bytes, at byte {start}. Shorten it.")
        self.fields.append((key, _value(key, bytes(self._body[start : self._position]), start)))


def _string(body: bytes | bytearray, start: int, end: int) -> str:
    try:
        return str(orjson.loads(b'"%b"' % bytes(body[start:end])))
    except orjson.JSONDecodeError:
        raise BodyError(f"body: not JSON at byte {start}: an invalid string. Correct it.") from None


def _value(key: str, text: bytes, start: int) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        raise BodyError(f"{key}: not a value of JSON, at byte {start}. Correct it.") from None


def _name(body: bytes | bytearray, start: int) -> str | None:
    if body[start : start + 4] == b"null":
        return None
    if (found := _NAME.match(body, start)) is None:
        raise BodyError(f"model: not a string, at byte {start}. Send the name of a model.")
    return _string(body, found.start() + 1, found.end() - 1)
