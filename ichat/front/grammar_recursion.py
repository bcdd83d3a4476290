"""Grammars (EBNF) with a rule that begins with itself: SGLang's scheduler follows such a rule until it ends."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

_TOKEN = re.compile(
    r'#[^\n]*|(?P<text>"(?:[^"\\]|\\.)*")|(?P<set>\[(?:[^\]\\]|\\.)*\])|(?P<head>[A-Za-z_][\w.-]*)(?=\s*::=)|::='
    r"|(?P<name>[A-Za-z_][\w.-]*)|(?P<repeat>[*?]|\{0?,?\d*\}|\{0,\d*\})|(?P<mark>[()|])|(?P<other>[^\s+])",
    re.DOTALL,
)
#: Rules that lead to each other in more steps than this are refused as well.
_MOST_ROUNDS = 100


@dataclass
class _Piece:
    """A part of a rule: a name, a group of alternatives, or a text that takes characters or none."""

    name: str = ""
    alternatives: list[list[_Piece]] = field(default_factory=list)
    may_be_empty: bool = False


def begins_with_itself(grammar: str) -> bool:
    """Whether one of the rules can come back to itself before it has taken a character."""
    rules = _read(grammar)
    empty: set[str] = set()
    for _ in range(_MOST_ROUNDS):
        found = {name for name, body in rules.items() if name not in empty and _may_be_empty(body, empty)}
        if not found:
            break
        empty |= found
    else:
        return True
    return _has_circle({name: _first_names(body, empty) for name, body in rules.items()})


def _read(grammar: str) -> dict[str, _Piece]:
    rules: dict[str, _Piece] = {}
    open_groups: list[_Piece] = [_Piece(alternatives=[[]])]
    for token in _TOKEN.finditer(grammar):
        kind, text = token.lastgroup, token[0]
        if kind == "head":
            rules[text] = _Piece(alternatives=[[]])
            open_groups = [rules[text]]
        elif kind == "mark":
            _open_or_close(text, open_groups)
        elif kind == "repeat":
            sequence = open_groups[-1].alternatives[-1]
            if sequence:
                sequence[-1].may_be_empty = True
        elif kind is not None:
            piece = _Piece(name=text) if kind == "name" else _Piece(may_be_empty=text == '""')
            open_groups[-1].alternatives[-1].append(piece)
    return rules


def _open_or_close(mark: str, open_groups: list[_Piece]) -> None:
    if mark == "|":
        open_groups[-1].alternatives.append([])
    elif mark == "(":
        group = _Piece(alternatives=[[]])
        open_groups[-1].alternatives[-1].append(group)
        open_groups.append(group)
    elif len(open_groups) > 1:
        open_groups.pop()


def _may_be_empty(piece: _Piece, empty: set[str]) -> bool:
    if piece.may_be_empty or piece.name in empty:
        return True
    return any(all(_may_be_empty(one, empty) for one in sequence) for sequence in piece.alternatives)


def _first_names(piece: _Piece, empty: set[str]) -> set[str]:
    names = {piece.name} if piece.name else set()
    for sequence in piece.alternatives:
        for one in sequence:
            names |= _first_names(one, empty)
            if not _may_be_empty(one, empty):
                break
    return names


def _has_circle(follows: dict[str, set[str]]) -> bool:
    """Take away what leads nowhere, as long as there is some: a circle is what stays."""
    waiting: dict[str, Any] = {name: {one for one in firsts if one in follows} for name, firsts in follows.items()}
    leading: dict[str, list[str]] = {}
    for name, firsts in waiting.items():
        for one in firsts:
            leading.setdefault(one, []).append(name)
    done = [name for name, firsts in waiting.items() if not firsts]
    gone = 0
    while done:
        name = done.pop()
        gone += 1
        for before in leading.get(name, ()):
            waiting[before].discard(name)
            if not waiting[before]:
                done.append(before)
    return gone < len(waiting)
