"""What a field of a request may hold: each rule looks at a value and raises a RefusalError, or has nothing to say.

The engines' own classes check most types, and answer 400. A rule bounds what they leave open: a number that becomes an
index, a size or a count inside the engine, and a field of which the engine says that it is its own.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from ichat.backends.request_checks.facts import ModelFacts, RefusalError, shown

Rule = Callable[[str, Any, ModelFacts], None]
Bound = float | Callable[[ModelFacts], int]

MOST_BIAS = 10_000
INT32 = 2**31 - 1
INT64 = 2**63 - 1
#: So deep may lists lie in each other where an engine takes lists.
_NESTING = 3


def number(least: Bound, most: Bound) -> Rule:
    """A number within bounds, or a list of them; whether it is a number at all is the engine's to say."""

    def check(at: str, value: Any, facts: ModelFacts) -> None:
        low, high = (bound if isinstance(bound, int | float) else bound(facts) for bound in (least, most))
        for one in _leaves(value):
            read = _number(one)
            if read is not None and not low <= read <= high:
                raise RefusalError(at, f"{shown(one)} is not in {low} to {high}. Choose a number in between.")

    return check


def integer(least: Bound, most: Bound) -> Rule:
    """``number``, for fields whose class takes nothing but integers."""
    return number(least, most)


def token_ids(at: str, value: Any, facts: ModelFacts) -> None:
    """Token ids of the model's vocabulary, in lists of lists; texts and objects may stand in their place."""
    if type(value) is int:
        value = [value]
    if type(value) is list:
        _check_ids(at, value, facts.vocab_size, _NESTING)


def _check_ids(at: str, values: list[Any], vocab_size: int, depth: int) -> None:
    kinds = set(map(type, values))
    if kinds == {int}:
        if min(values) < 0 or max(values) >= vocab_size:
            wrong = next(one for one in values if not 0 <= one < vocab_size)
            raise RefusalError(at, f"{shown(wrong)} is no token id of this model: they are 0 to {vocab_size - 1}.")
    elif kinds & {int, float, bool}:
        raise RefusalError(at, "a list of token ids holds integers only.")
    elif list in kinds:
        if depth == 1:
            raise RefusalError(at, "the lists lie too deep in each other. Send one list of token ids for each prompt.")
        for one in values:
            if type(one) is list:
                _check_ids(at, one, vocab_size, depth - 1)


def filled(at: str, value: Any, facts: ModelFacts) -> None:
    """A list that holds something, and so do the lists in it: of nothing there is no next token."""
    if type(value) is list:
        if not value:
            raise RefusalError(at, "the prompt is empty. Send one token at least.")
        for one in value:
            filled(at, one, facts)


def token_keys(at: str, value: Any, facts: ModelFacts) -> None:
    """An object whose keys are token ids, like ``logit_bias``, and whose values a model can add to what it computes."""
    if type(value) is not dict:
        return
    for key, added in value.items():
        if (read := _number(added)) is not None and not -MOST_BIAS <= read <= MOST_BIAS:
            raise RefusalError(f"{at}.{shown(key)}", f"{shown(added)} is not in -{MOST_BIAS} to {MOST_BIAS}.")
        try:
            is_known = 0 <= int(key) < facts.vocab_size
        except ValueError:
            is_known = False
        if not is_known:
            raise RefusalError(
                at, f'"{shown(key)}" is no token id of this model: they are 0 to {facts.vocab_size - 1}.'
            )


def vectors(at: str, value: Any, facts: ModelFacts) -> None:
    """Lists of vectors as wide as the model is."""
    if type(value) is not list or not value:
        return
    if all(type(one) in (int, float) for one in value):
        if len(value) != facts.hidden_size:
            raise RefusalError(at, f"a vector has {len(value)} numbers, but the model's have {facts.hidden_size}.")
        return
    for one in value:
        vectors(at, one, facts)


def texts(most_characters: int, most: int) -> Rule:
    """Texts that the engine turns into tokens, one by one, before it begins."""

    def check(at: str, value: Any, facts: ModelFacts) -> None:
        del facts
        found = list(_leaves(value))
        if len(found) > most:
            raise RefusalError(at, f"{len(found)} are more than {most}. Send fewer.")
        for one in found:
            if isinstance(one, str) and len(one) > most_characters:
                raise RefusalError(at, f"{len(one)} characters are more than {most_characters}. Shorten it.")

    return check


def expressions(most_characters: int, most: int) -> Rule:
    """Regular expressions of Python's own."""
    are_short = texts(most_characters, most)

    def check(at: str, value: Any, facts: ModelFacts) -> None:
        are_short(at, value, facts)
        for one in _leaves(value):
            try:
                with warnings.catch_warnings(action="ignore"):
                    re.compile(one)
            except (re.error, ValueError, OverflowError, RecursionError, TypeError) as error:
                raise RefusalError(at, f"no regular expression: {error}.") from None

    return check


def not_beginning_with(prefix: str, why: str) -> Rule:
    """A name, or a list of them, that must not look like one of the engine's own."""

    def check(at: str, value: Any, facts: ModelFacts) -> None:
        del facts
        if any(isinstance(one, str) and one.startswith(prefix) for one in _leaves(value)):
            raise RefusalError(at, f"{why} Choose another.")

    return check


def refused(why: str, *, but_false: bool = False) -> Rule:
    """A field that clients have no use for. A switch may be said to be off; of others even an empty value counts."""

    def check(at: str, value: Any, facts: ModelFacts) -> None:
        del facts
        if not (but_false and value is False):
            raise RefusalError(at, f"{why}. Leave it out.", code="unsupported_parameter")

    return check


def keys_among(allowed: Collection[str], why: str) -> Rule:
    """An object with no other keys than these."""

    def check(at: str, value: Any, facts: ModelFacts) -> None:
        del facts
        unknown = next((key for key in value if key not in allowed), None) if type(value) is dict else None
        if unknown is not None:
            raise RefusalError(f"{at}.{shown(unknown)}", f"{why}. Leave it out.", code="unsupported_parameter")

    return check


def keys_not_among(forbidden: Collection[str], why: str) -> Rule:
    """An object without these keys."""

    def check(at: str, value: Any, facts: ModelFacts) -> None:
        del facts
        found = next((key for key in value if key in forbidden), None) if type(value) is dict else None
        if found is not None:
            raise RefusalError(f"{at}.{found}", f"{why}. Leave it out.", code="unsupported_parameter")

    return check


def typed(convert: Callable[[Any], object]) -> Rule:
    """A value of the type that the engine's own class names; ``convert`` raises ValueError or TypeError at others."""

    def check(at: str, value: Any, facts: ModelFacts) -> None:
        del facts
        try:
            convert(value)
        except (ValueError, TypeError, RecursionError) as error:
            raise RefusalError(at, f"{str(error).rstrip('.')}.") from None

    return check


def all_of(*rules: Rule) -> Rule:
    """Each of these rules, in this order."""

    def check(at: str, value: Any, facts: ModelFacts) -> None:
        for rule in rules:
            rule(at, value, facts)

    return check


def inside(rules: Mapping[str, Rule], known: Collection[str] = ()) -> Rule:
    """An object, or a list of them, whose fields have rules of their own. Where some are known, others are refused."""

    def check(at: str, value: Any, facts: ModelFacts) -> None:
        for one in value if type(value) is list else (value,):
            if type(one) is dict:
                check_fields(one, rules, facts, f"{at}.")
                _check_known(one, known, at)

    return check


def _check_known(fields: dict[str, Any], known: Collection[str], at: str) -> None:
    unknown = next((key for key in fields if key not in known), None) if known else None
    if unknown is not None:
        raise RefusalError(
            f"{at}.{shown(unknown)}", "the engine has no such parameter. Leave it out.", "unknown_parameter"
        )


def check_fields(fields: dict[str, Any], rules: Mapping[str, Rule], facts: ModelFacts, path: str = "") -> None:
    """Look each field up that says something. RefusalError: one holds what the model cannot take."""
    for key, value in fields.items():
        rule = rules.get(key)
        if rule is not None and value is not None:
            rule(path + key, value, facts)


def _leaves(value: Any) -> Iterator[Any]:
    stack = [value]
    while stack:
        one = stack.pop()
        if type(one) is list:
            stack.extend(reversed(one))
        elif one is not None:
            yield one


def _number(value: Any) -> float | None:
    """What an engine would read; texts too, in which their classes find numbers."""
    if isinstance(value, int | float):  # bool as well
        return value
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return None
    return None
