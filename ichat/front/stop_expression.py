"""SGLang's ``stop_regex``: whether matching one could hold its scheduler up.

After every token SGLang searches the end of the answer for it, or all of the answer, with Python's backtracking ``re``.
So an expression that can match from one place in a great many ways stops every answer of the engine.
"""

from __future__ import annotations

import re
from re import _constants as op  # type: ignore[attr-defined]  # what `re` itself makes of an expression
from re import _parser  # type: ignore[attr-defined]
from typing import Any

#: SGLang's own bounds; the rest of what is done here is small within them.
_MAX_EXPRESSIONS = 32
_MAX_CHARACTERS = 256
#: So many ways to match from one place at most.
_MAX_WAYS = 200

_REPEATS = (op.MAX_REPEAT, op.MIN_REPEAT, op.POSSESSIVE_REPEAT)


class _TooManyError(Exception):
    pass


def slow_stop(value: Any) -> str | None:
    """Why one of the expressions could take for ever, for the client; None: none can, or there is none."""
    expressions = value if isinstance(value, list) else [value]
    if len(expressions) > _MAX_EXPRESSIONS:
        return f"{len(expressions)} are more than {_MAX_EXPRESSIONS}. Send fewer."
    for expression in expressions:
        if not isinstance(expression, str):
            continue
        if len(expression) > _MAX_CHARACTERS:
            return f"longer than {_MAX_CHARACTERS} characters. Shorten it."
        try:
            _Ways().of(_parser.parse(expression))
        except _TooManyError:
            words = "can match in so many ways that it may take for ever"
            return f"{words}. Use one of * and + at most, none in what is repeated, and small {{m,n}} otherwise."
        except (re.error, OverflowError):
            continue  # the engine's to refuse
    return None


class _Ways:
    """Counts them, over a parsed expression."""

    def __init__(self) -> None:
        self._unbounded = 0

    def of(self, sequence: Any) -> int:
        ways = 1
        for kind, detail in sequence:
            ways = _bounded(ways * self._of_one(kind, detail))
        return ways

    def _of_one(self, kind: Any, detail: Any) -> int:
        if kind in _REPEATS:
            return self._of_repeat(*detail)
        if kind is op.BRANCH:
            return self._of_branches(detail[1])
        if kind is op.GROUPREF_EXISTS:
            return self._of_branches([branch for branch in detail[1:] if branch is not None])
        # A group, an assertion or an atomic group: what is inside stands last.
        inside = detail[-1] if isinstance(detail, tuple) else detail
        return self.of(inside) if isinstance(inside, _parser.SubPattern) else 1

    def _of_repeat(self, least: int, most: int, inside: Any) -> int:
        ways = self.of(inside)
        if most is not op.MAXREPEAT and most <= _MAX_WAYS:
            return _bounded((most - least + 1) * _power(ways, most))
        self._unbounded += 1
        if ways > 1 or self._unbounded > 1:
            raise _TooManyError
        return 1

    def _of_branches(self, branches: list[Any]) -> int:
        ways = [self.of(branch) for branch in branches]
        begins = [branch[0] if len(branch) else None for branch in branches]
        are_literal = all(begin is not None and begin[0] is op.LITERAL for begin in begins)
        if are_literal and len({chr(begin[1]).casefold() for begin in begins if begin is not None}) == len(begins):
            return max(ways)  # the first character decides between them
        return _bounded(sum(ways))


def _power(ways: int, times: int) -> int:
    return 1 if ways == 1 else _bounded(ways ** min(times, 64))


def _bounded(ways: int) -> int:
    if ways > _MAX_WAYS:
        raise _TooManyError
    return ways
