"""SGLang's ``stop_regex``: whether matching one could hold its scheduler up.

After every token SGLang searches the end of the answer for it with Python's backtracking ``re``: as much of it as the
expression can match at most, or all of it where that is unbounded. So an expression that can match from one place in a
great many ways, or one that makes each token cost more than the one before, stops every answer of the engine.
"""

from __future__ import annotations

import re
import warnings
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
            _ways_of(_parsed(expression))
        except _TooManyError:
            words = "can match in so many ways, or so much, that it may take for ever"
            return f"{words}. Use small {{m,n}} instead of * and +."
        except (re.error, OverflowError, ValueError, RecursionError):
            continue  # the engine's to refuse
    return None


def _parsed(expression: str) -> Any:
    with warnings.catch_warnings():  # of sets that may come to mean something else, in every log
        warnings.simplefilter("ignore")
        return _parser.parse(expression)


def _ways_of(sequence: Any) -> int:
    ways = 1
    for kind, detail in sequence:
        ways = _bounded(ways * _ways_of_one(kind, detail))
    return ways


def _ways_of_one(kind: Any, detail: Any) -> int:
    if kind in _REPEATS:
        return _ways_of_repeat(*detail)
    if kind is op.BRANCH:
        return _ways_of_branches(detail[1])
    if kind is op.GROUPREF_EXISTS:
        return _ways_of_branches([branch for branch in detail[1:] if branch is not None])
    # A group, an assertion or an atomic group: what is inside stands last.
    inside = detail[-1] if isinstance(detail, tuple) else detail
    return _ways_of(inside) if isinstance(inside, _parser.SubPattern) else 1


def _ways_of_repeat(least: int, most: int, inside: Any) -> int:
    if most is op.MAXREPEAT or most > _MAX_WAYS:
        raise _TooManyError
    return _bounded((most - least + 1) * _power(_ways_of(inside), most))


def _ways_of_branches(branches: list[Any]) -> int:
    ways = [_ways_of(branch) for branch in branches]
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
