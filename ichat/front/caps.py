"""What one request may ask of a model at most: the size of its body, how many answers, how many tokens."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ichat.front.errors import Failure, body_too_large
from ichat.ipc import messages

#: The engines' and APIs' names of what the limit is set on.
_ANSWERS = ("n", "best_of", "beam_width")
_TOKENS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "max_new_tokens", "num_predict")
#: Where they may stand inside: SGLang's and vLLM's own routes, Vertex AI's, Ollama's.
_CONTAINERS = ("sampling_params", "parameters", "options")
_NESTING = 3

#: All keys of a request that a limit is about.
KEYS = frozenset((*_ANSWERS, *_TOKENS, *_CONTAINERS))

Fields = Iterable[tuple[str, Any]]


@dataclass(frozen=True, slots=True)
class Caps:
    """``has_fields``: the fields of a body must be known, not only its length."""

    model: str
    body_bytes: int | None
    limits: dict[str, tuple[str, int]]  # by field: the setting, and its value

    @classmethod
    def of(cls, route: messages.RouteModel) -> Caps | None:
        """None: there are none."""
        limits: dict[str, tuple[str, int]] = {}
        for setting, names in (("n", _ANSWERS), ("max_tokens", _TOKENS)):
            if (value := route.limits.get(setting)) is not None:
                limits |= dict.fromkeys(names, (f"limit_{setting}", value))
        body_bytes = route.limits.get("body_bytes")
        return None if body_bytes is None and not limits else cls(route.name, body_bytes, limits)

    @property
    def has_fields(self) -> bool:
        return bool(self.limits)

    def objection(self, body: bytes | bytearray, fields: Fields) -> Failure | None:
        if self.body_bytes is not None and len(body) > self.body_bytes:
            return body_too_large(self.body_bytes, f"limit_body_bytes of {self.model}", closes=False)
        return self._in_fields(fields, "", 1) if self.limits else None

    def _in_fields(self, fields: Fields, path: str, depth: int) -> Failure | None:
        for key, value in fields:
            if key in self.limits:
                failure = self._in_value(f"{path}{key}", value, *self.limits[key])
            elif key in _CONTAINERS and depth < _NESTING:
                failure = self._in_container(value, f"{path}{key}.", depth + 1)
            else:
                failure = None
            if failure is not None:
                return failure
        return None

    def _in_container(self, value: Any, path: str, depth: int) -> Failure | None:
        for one in value if isinstance(value, list) else (value,):
            if isinstance(one, dict) and (failure := self._in_fields(one.items(), path, depth)) is not None:
                return failure
        return None

    def _in_value(self, path: str, value: Any, setting: str, limit: int) -> Failure | None:
        if _number(value) <= limit:
            return None
        shown = str(value)
        shown = shown if len(shown) <= 32 else f"{shown[:31]}…"
        message = f"{path}: {shown} is more than model '{self.model}' allows ({setting}: {limit}). Ask for less."
        return Failure(400, "limit_exceeded", message)


def _number(value: Any) -> float:
    """What an engine would take it for; texts too, since the engines read numbers in them. Nothing: no number."""
    if isinstance(value, int | float | str):
        try:
            return float(value)
        except (ValueError, OverflowError):
            return math.inf if isinstance(value, int) else -math.inf
    return -math.inf
