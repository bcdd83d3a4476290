"""Numbers and references in a schema or a pattern that make much out of little: how often something is repeated.

Engines unroll a repetition, or search for the end of a reference, where they build a grammar: of a schema of 60 bytes
minutes of work, or a process that ends (what was measured: docs/decisions.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import orjson

from ichat.front.grammar_recursion import begins_with_itself

#: So often may something be repeated, by one number or by those around it together.
MOST_REPEATED = 100_000
#: So many characters may a pattern's {m,n} add, each within those around it.
MOST_UNROLLED = 2000

_LENGTHS = ("minLength", "maxLength", "minProperties", "maxProperties", "minContains", "maxContains")
_ITEMS = ("minItems", "maxItems")
#: What a schema says about values, and not about their form.
_DATA = ("const", "default", "enum", "examples", "description", "title")
_PATTERNS = ("pattern", "regex", "ebnf", "grammar")
_ROOTS = ("schema", "json_schema", "parameters", "input_schema", "json", "format")
_ALTERNATIVES = ("allOf", "anyOf", "oneOf")

_OF_INTEREST = re.compile(rb"""(?:min|max)(?:Items|Length|Properties|Contains)|\$ref|[{]\d|\\u00""")
_REPETITION = re.compile(r"\{(\d{1,20})(?:,(\d{0,20}))?\}")


_RECURSIVE = "a rule of the grammar begins with itself, and so it has no end. Let it take a character first."


def repetition_excess(key: str, part: Any, text: bytes) -> str | None:
    """What is repeated too often in the value of a key, or refers to itself; ``text`` is the part as JSON."""
    if b"::=" in text and _is_recursive(part):
        return _RECURSIVE
    if _OF_INTEREST.search(text) is None:
        return None
    if type(part) is str and key in _PATTERNS and not part.lstrip().startswith("{"):
        return _pattern_excess(part)
    return _number_excess(_said(part)) or _circle(_said(part))


def _is_recursive(part: Any) -> bool:
    grammars = [part] if type(part) is str else [text for node in _nodes(part) for text in node.values()]
    try:
        return any(type(one) is str and "::=" in one and begins_with_itself(one) for one in grammars)
    except RecursionError:
        return True  # brackets deeper than any engine reads them


def _number_excess(document: Any) -> str | None:
    stack: list[tuple[Any, float]] = [(document, 1)]
    while stack:
        node, factor = stack.pop()
        if type(node) is list:
            stack.extend((one, factor) for one in node)
        elif type(node) is dict:
            (items_name, items), (name, length) = _most(node, _ITEMS), _most(node, _LENGTHS)
            factor *= items
            if factor * length > MOST_REPEATED:
                wrong = name if length > 1 else items_name
                return f"{wrong} comes to more than {MOST_REPEATED} repetitions. Ask for less."
            if (words := _patterns_excess(node)) is not None:
                return words
            stack.extend((_said(value), factor) for key, value in node.items() if key not in _DATA)
    return None


def _most(node: dict[str, Any], names: tuple[str, ...]) -> tuple[str, float]:
    numbers = [(node[name], name) for name in names if type(node.get(name)) in (int, float)]
    count, name = max(numbers, default=(1, names[0]))
    return name, max(count, 1)


def _patterns_excess(node: dict[str, Any]) -> str | None:
    named = node.get("patternProperties")
    patterns = [node[name] for name in _PATTERNS if type(node.get(name)) is str]
    return next(filter(None, map(_pattern_excess, [*patterns, *(named if type(named) is dict else ())])), None)


def _pattern_excess(pattern: str) -> str | None:
    if _unrolled(pattern) <= len(pattern) + MOST_UNROLLED:
        return None
    return f"its {{m,n}} come to more than {MOST_UNROLLED} characters. Use smaller ones, or * and +."


def _unrolled(pattern: str) -> float:
    """Characters of a pattern with each repetition written out, at most."""
    groups: list[list[float]] = [[0, 0]]  # of each open group: all of it, and its last piece
    at = 0
    while at < len(pattern):
        repetition = _REPETITION.match(pattern, at) if pattern[at] == "{" else None
        if repetition is not None:
            times = max(int(repetition[2] or repetition[1]), 1)
            groups[-1][0] += groups[-1][1] * (times - 1)
            groups[-1][1] *= times
            at = repetition.end()
        else:
            at = _take_piece(pattern, at, groups)
    return sum(whole for whole, _ in groups)


def _take_piece(pattern: str, at: int, groups: list[list[float]]) -> int:
    """Count one piece that is no repetition; where the next begins."""
    character = pattern[at]
    if character == "(":
        groups.append([0, 0])
    elif character == ")" and len(groups) > 1:
        whole, _ = groups.pop()
        groups[-1][0] += whole
        groups[-1][1] = whole
    elif character not in "*+?|":
        groups[-1][0] += 1
        groups[-1][1] = 1
        if character == "\\":
            return at + 2
        if character == "[":
            return _end_of_set(pattern, at)
    return at + 1


def _end_of_set(pattern: str, at: int) -> int:
    at += 2  # a ] that comes first is meant
    while at < len(pattern) and pattern[at] != "]":
        at += 2 if pattern[at] == "\\" else 1
    return at + 1


def _circle(document: Any) -> str | None:
    """A reference that comes back to itself before anything is said."""
    for root in _roots(document):
        known: set[int] = set()
        for node in _nodes(root):
            if _comes_back(node, root, known):
                return '"$ref" refers to itself, and nothing fits that. Put it into properties or items.'
    return None


def _comes_back(start: dict[str, Any], root: Any, known: set[int]) -> bool:
    """``known`` are nodes from which nothing comes back."""
    path: list[tuple[int, Iterator[dict[str, Any]]]] = []
    on_path: set[int] = set()
    node: dict[str, Any] | None = start
    while node is not None or path:
        if node is not None:
            if id(node) in on_path:
                return True
            if id(node) in known:
                node = None
                continue
            on_path.add(id(node))
            path.append((id(node), _followed(node, root)))
        number, rest = path[-1]
        node = next(rest, None)
        if node is None:
            path.pop()
            on_path.discard(number)
            known.add(number)
    return False


def _followed(node: dict[str, Any], root: Any) -> Iterator[dict[str, Any]]:
    """What the same value must fit as well, or may."""
    if type(reference := node.get("$ref")) is str and type(target := _resolved(reference, root)) is dict:
        yield target
    for name in _ALTERNATIVES:
        alternatives = node.get(name)
        yield from (one for one in alternatives if type(one) is dict) if type(alternatives) is list else ()


def _resolved(reference: str, root: Any) -> Any:
    if not reference.startswith("#"):
        return None
    node = root
    for name in reference[1:].split("/")[1:]:
        key = name.replace("~1", "/").replace("~0", "~")
        if type(node) is list:
            node = node[int(key)] if key.isdecimal() and int(key) < len(node) else None
        else:
            node = node.get(key) if type(node) is dict else None
    return node


def _roots(document: Any) -> Iterator[Any]:
    """Each schema that references may begin from."""
    yield document
    for node in _nodes(document):
        yield from (_said(node[name]) for name in _ROOTS if name in node)


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    stack = [value]
    while stack:
        one = stack.pop()
        if type(one) is dict:
            yield one
            stack.extend(one.values())
        elif type(one) is list:
            stack.extend(one)


def _said(value: Any) -> Any:
    """What a text that is JSON says; any other value as it is."""
    if type(value) is str and value.lstrip()[:1] in ("{", "["):
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            return value
    return value
