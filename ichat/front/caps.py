"""What one request may ask of a model at most: the size of its body, answers, tokens, and what constrains them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from ichat.front.constraints import TYPES, Budget, excess
from ichat.front.errors import Failure, body_too_large
from ichat.ipc import messages

#: The engines' and APIs' names of what the limit is set on.
_ANSWERS = ("n", "best_of", "beam_width")
_TOKENS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "max_new_tokens", "num_predict")
#: Where they may stand inside: SGLang's and vLLM's own routes, Vertex AI's, Ollama's.
_CONTAINERS = ("sampling_params", "parameters", "options")
_NESTING = 3

#: How the values of a key begin, in JSON, that are of interest; nothing: however they begin.
_OPENERS: dict[type, bytes] = {dict: b"{", list: b"[", str: b'"'}
_NUMBER_KEYS: dict[str, bytes] = dict.fromkeys((*_ANSWERS, *_TOKENS, *_CONTAINERS), b"")
_CONSTRAINT_KEYS: dict[str, bytes] = {
    **dict.fromkeys(_CONTAINERS, b""),
    **{key: b"".join(_OPENERS[one] for one in types) for key, types in TYPES.items()},
}

Fields = Iterable[tuple[str, Any]]


@dataclass(frozen=True, slots=True)
class Caps:
    """``numbers`` is by field: the setting that bounds it, and its value. ``keys`` are all bounded fields."""

    model: str
    body_bytes: int | None
    schema_bytes: int | None
    numbers: dict[str, tuple[str, int]]
    keys: frozenset[str]

    @classmethod
    def of(cls, route: messages.RouteModel) -> Caps | None:
        """None: there are none."""
        numbers: dict[str, tuple[str, int]] = {}
        for setting, names in (("n", _ANSWERS), ("max_tokens", _TOKENS)):
            if (value := route.limits.get(setting)) is not None:
                numbers |= dict.fromkeys(names, (f"limit_{setting}", value))
        body_bytes, schema_bytes = route.limits.get("body_bytes"), route.limits.get("schema_bytes")
        keys = {*numbers, *(TYPES if schema_bytes is not None else ())}
        if keys:
            keys.update(_CONTAINERS)
        caps = cls(route.name, body_bytes, schema_bytes, numbers, frozenset(keys))
        return caps if keys or body_bytes is not None else None

    def may_object(self, body: bytes | bytearray, document: dict[str, Any]) -> bool:
        """``document``: what the body says. False: there is nothing that a bound is on."""
        if self.body_bytes is not None and len(body) > self.body_bytes:
            return True
        if not self.keys.isdisjoint(document):
            return True
        if self.schema_bytes is not None and type(messages := document.get("messages")) is list:
            for message in messages:  # nearly every request comes by here: a loop is quicker than `any`
                if type(message) is dict and "tools" in message:
                    return True
        return False

    def objection(self, body: bytes | bytearray, fields: Fields, *, generates: bool = True) -> Failure | None:
        if self.body_bytes is not None and len(body) > self.body_bytes:
            return body_too_large(self.body_bytes, f"limit_body_bytes of {self.model}", closes=False)
        if self.schema_bytes is not None and not generates:
            return dataclasses.replace(self, schema_bytes=None).objection(body, fields)
        return self._in_fields(fields, "", 1, Budget()) if self.keys else None

    def _in_fields(self, fields: Fields, path: str, depth: int, budget: Budget) -> Failure | None:
        for key, value in fields:
            if key in self.numbers:
                failure = self._in_value(f"{path}{key}", value, *self.numbers[key])
            elif key in TYPES and self.schema_bytes is not None:
                failure = self._in_constraint(f"{path}{key}", key, value, self.schema_bytes, budget)
            elif key == "messages" and depth == 1 and self.schema_bytes is not None:
                failure = self._in_messages(value, self.schema_bytes, budget)
            elif key in _CONTAINERS and depth < _NESTING:
                failure = self._in_container(value, f"{path}{key}.", depth + 1, budget)
            else:
                failure = None
            if failure is not None:
                return failure
        return None

    def _in_container(self, value: Any, path: str, depth: int, budget: Budget) -> Failure | None:
        for one in value if isinstance(value, list) else (value,):
            if isinstance(one, dict) and (failure := self._in_fields(one.items(), path, depth, budget)) is not None:
                return failure
        return None

    def _in_value(self, path: str, value: Any, setting: str, limit: int) -> Failure | None:
        if _number(value) <= limit:
            return None
        shown = str(value)
        shown = shown if len(shown) <= 32 else f"{shown[:31]}…"
        return _exceeded(
            f"{path}: {shown} is more than model '{self.model}' allows ({setting}: {limit}). Ask for less."
        )

    def _in_messages(self, messages: Any, schema_bytes: int, budget: Budget) -> Failure | None:
        """SGLang adds the tools that stand in messages to the request's."""
        found = (
            [one["tools"] for one in messages if type(one) is dict and "tools" in one] if type(messages) is list else []
        )
        failures = (self._in_constraint("messages.tools", "tools", tools, schema_bytes, budget) for tools in found)
        return next(filter(None, failures), None)

    def _in_constraint(self, path: str, key: str, value: Any, schema_bytes: int, budget: Budget) -> Failure | None:
        words = excess(key, value, self.model, schema_bytes, budget)
        return None if words is None else _exceeded(f"{path}: {words}")


def _exceeded(message: str) -> Failure:
    return Failure(400, "limit_exceeded", message)


def _number(value: Any) -> float:
    """What an engine would take it for; texts too, since the engines read numbers in them. Nothing: no number."""
    if isinstance(value, int | float | str):
        try:
            return float(value)
        except (ValueError, OverflowError):
            return math.inf if isinstance(value, int) else -math.inf
    return -math.inf


def keys_of(caps: Collection[Caps], *, with_constraints: bool = True) -> dict[str, bytes]:
    """What any of them must know of a body, and how the values begin that matter, in JSON; nothing: in any way."""
    keys = _NUMBER_KEYS if any(one.numbers for one in caps) else {}
    return keys | _CONSTRAINT_KEYS if with_constraints and any(one.schema_bytes is not None for one in caps) else keys
