"""What an answer may be constrained by: schemas, tools, regular expressions, grammars; no more than an engine bears.

Engines turn these into automata over their whole vocabulary, and check them on the loop that streams everybody's
answers. Within these bounds xgrammar, which both engines use, takes seconds of one core, not of that loop; beyond them
it takes minutes (what was measured: docs/decisions.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import orjson

from ichat.front.repetitions import repetition_excess
from ichat.front.stop_expression import slow_stop

_MAX_DEPTH = 64
_MAX_PROPERTIES = 1000
_MAX_TOOLS = 1024
_MAX_VALUES = 50_000
_MAX_BYTES = 4 * 1024 * 1024
_TOO_DEEP = f"nested deeper than {_MAX_DEPTH}. Nest less."

#: Which values of a key can be meant, by their types: a `text` is a prompt on one route, and an object on another.
TYPES: dict[str, tuple[type, ...]] = {
    "response_format": (dict,),
    "structured_outputs": (dict, str),  # vLLM
    "structural_tag": (dict, str),
    "json_schema": (dict, str),  # SGLang, like the next three
    "regex": (str,),
    "ebnf": (str,),
    "stop_regex": (str, list),
    "text": (dict,),  # Responses API
    "output_config": (dict,),  # Messages API
    "output_format": (dict,),
    "format": (dict, str),  # Ollama's API
    "tools": (list,),
    "functions": (list,),
}
_LISTS_OF_MANY = ("tools", "functions")

_BRACKETS = re.compile(r'"(?:[^"\\]++|\\.)*+"|[][{}]', re.DOTALL)


class Budget:
    """What one request may have of them in all, however often it writes them."""

    def __init__(self) -> None:
        self._values, self._bytes = _MAX_VALUES, _MAX_BYTES

    def spend_value(self) -> bool:
        self._values -= 1
        return self._values >= 0

    def spend_bytes(self, count: int) -> bool:
        self._bytes -= count
        return self._bytes >= 0


def excess(key: str, value: Any, model: str, schema_bytes: int, budget: Budget) -> str | None:
    """What is too much about the value of a key of TYPES, for the client; None: nothing."""
    if type(value) not in TYPES[key]:
        return None
    if key == "stop_regex":
        return slow_stop(value)
    parts = value if key in _LISTS_OF_MANY else [value]
    if len(parts) > _MAX_TOOLS:
        return f"{len(parts)} are more than {_MAX_TOOLS}. Send fewer."
    return next(filter(None, (_of_part(key, part, (model, schema_bytes), budget) for part in parts)), None)


def _of_part(key: str, part: Any, limit: tuple[str, int], budget: Budget) -> str | None:
    model, schema_bytes = limit
    try:
        text = orjson.dumps(part)
        size = len(text)
    except orjson.JSONEncodeError:
        return _TOO_DEEP
    if size > schema_bytes:
        return f"{size} bytes are more than model '{model}' allows (limit_schema_bytes: {schema_bytes}). Shorten it."
    if not budget.spend_bytes(size):
        return f"more than {_MAX_BYTES} bytes in all. Send less."
    return _tangle(part, budget) or repetition_excess(key, part, text)


def _tangle(part: Any, budget: Budget) -> str | None:
    """What is too deep, too wide or too much, whatever its length."""
    for depth, one in _walk(part):
        if not budget.spend_value():
            return f"more than {_MAX_VALUES} values in all. Send fewer."
        if depth > _MAX_DEPTH:
            return _TOO_DEEP
        if type(one) is dict and len(one) > _MAX_PROPERTIES:
            return f"an object with {len(one)} keys, of {_MAX_PROPERTIES} at most. Split it."
    return None


def _walk(value: Any) -> Iterator[tuple[int, Any]]:
    """All values inside, with their depth. A text that is JSON counts as what it says."""
    stack = [(1, value)]
    while stack:
        depth, one = stack.pop()
        yield depth, one
        if type(one) is str:
            if one.lstrip()[:1] in ("{", "["):
                stack.append(_said(one, depth))
        elif type(one) is dict:
            stack.extend((depth + 1, inside) for inside in one.values())
        elif type(one) is list:
            stack.extend((depth + 1, inside) for inside in one)


def _said(text: str, depth: int) -> tuple[int, Any]:
    """What does not parse may be a grammar, nonsense, or too deep for our parser, though not for another."""
    try:
        return depth, orjson.loads(text)
    except orjson.JSONDecodeError:
        return depth + _nesting(text), None


def _nesting(text: str) -> int:
    deepest = depth = 0
    for token in _BRACKETS.finditer(text):
        if (bracket := token[0]) in "{[":
            depth += 1
            deepest = max(deepest, depth)
        elif bracket in "}]":
            depth -= 1
    return deepest
