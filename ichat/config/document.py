"""A YAML text as a tree that still knows where each word stood and how it was written.

PyYAML's own constructors forget places, keep the last of two equal keys, and read ``no`` as false and ``22:22``
as 1342. Here only the parser's events are used, and a word that YAML readers disagree on is never guessed at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ichat.errors import Problem

SIZE_LIMIT_BYTES = 1024 * 1024
DEPTH_LIMIT = 32
PROBLEM_LIMIT = 20

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,99})$")
_FLOAT = re.compile(r"[-+]?(0|[1-9][0-9]{0,99})\.[0-9]+([eE][-+]?[0-9]{1,2})?$")
_NAMED = {"null": None, "true": True, "True": True, "false": False, "False": False}
# Text to one reader, a number, a date or a truth value to another (YAML 1.1, YAML 1.2, JSON).
_TRAP = re.compile(
    r"(?i)(|~|null|true|false|y|n|yes|no|on|off|[-+]?\.(inf|nan)|[-+]?[0-9][0-9_,]*"
    r"|[-+]?0[box][0-9a-f_]+|[-+]?([0-9][0-9_]*)?\.?[0-9_]+([e][-+]?[0-9]+)?|[-+]?[0-9]+\.|[0-9]+(:[0-9]+)+(\.[0-9]*)?"
    r"|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}.*)$"
)


@dataclass(frozen=True)
class Scalar:
    """One word or quoted text. ``variables`` are those of the environment that are in it (see substitution.py);
    ``is_hidden``: it holds a secret by the name of one of them."""

    text: str
    is_quoted: bool
    line: int
    column: int
    variables: tuple[str, ...] = ()
    is_hidden: bool = False

    @property
    def is_null(self) -> bool:
        return not self.is_quoted and self.text == "null"

    @property
    def is_trap(self) -> bool:
        """Whether YAML readers disagree on what this is."""
        if self.is_quoted or self.text in _NAMED or _INTEGER.match(self.text) or _FLOAT.match(self.text):
            return False
        return bool(_TRAP.match(self.text))

    @property
    def value(self) -> Any:
        """What it is where any type may stand; a trap has no value."""
        if self.is_quoted:
            return self.text
        if self.text in _NAMED:
            return _NAMED[self.text]
        if _INTEGER.match(self.text):
            return int(self.text)
        return float(self.text) if _FLOAT.match(self.text) else self.text

    @property
    def literal(self) -> str:
        """As written, for a person."""
        source = f" (from {', '.join(self.variables)})" if self.variables else ""
        if self.is_hidden:
            return f"what is not shown{source}"
        if self.is_quoted:
            return f'the text "{_short(self.text)}"{source}'
        return (f"`{_short(self.text)}`" if self.text else "nothing") + source


@dataclass(frozen=True)
class Sequence:
    entries: tuple[Node, ...]
    line: int
    column: int
    literal = "a list"


@dataclass(frozen=True)
class Mapping:
    items: tuple[tuple[Scalar, Node], ...]
    line: int
    column: int
    literal = "a mapping"


Node = Scalar | Sequence | Mapping


@dataclass(frozen=True)
class Document:
    """One configuration file: its tree (None: empty or unreadable) and what is wrong with its form."""

    name: str
    root: Node | None = None
    problems: tuple[Problem, ...] = ()
    digest: str = ""  # of the content

    def place(self, node: Node) -> str:
        return f"{self.name}:{node.line}:{node.column}"


def parse(name: str, content: bytes) -> Document:
    """Read a YAML text. Never raises for what is in it: the problems say what is wrong."""
    if len(content) > SIZE_LIMIT_BYTES:
        limit = f"{SIZE_LIMIT_BYTES // 1024**2} MiB"
        return _refused(name, f"{name}:", f"{len(content)} bytes; a configuration has at most {limit}.")
    if content.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        return _refused(name, f"{name}:1:1", "begins with a byte-order mark. Save it as UTF-8 without one.")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        return _refused(name, f"{name}:{line}:{column}", f"byte 0x{content[error.start]:02x} is not UTF-8.")
    return _Builder(name).read(text)


def _refused(name: str, place: str, message: str) -> Document:
    return Document(name, problems=(Problem("E-CFG-YAML", place, message),))


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:59]}…"


def _advice(text: str, mark: Any) -> str:
    """YAML itself cannot read ${…} inside of {…} and […]."""
    line = text.splitlines()[mark.line : mark.line + 1] if mark else []
    return ' Within {…} and […] write "${NAME}" in quotes, or one entry a line.' if "${" in "".join(line) else ""


class _FormError(Exception):
    def __init__(self, mark: Any, message: str) -> None:
        super().__init__(message)
        self.mark = mark


@dataclass
class _Builder:
    name: str
    problems: list[Problem] = field(default_factory=list)

    def read(self, text: str) -> Document:
        import yaml  # only who has a file pays for it

        loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        try:
            root = self._root(iter(yaml.parse(text, Loader=loader)))
        except _FormError as error:
            return self._end(error.mark, str(error))
        except yaml.reader.ReaderError as error:  # the form of an error without a mark
            line = text.count("\n", 0, error.position) + 1
            problem = f"character {error.character!r} is not allowed in YAML."
            return _refused(self.name, f"{self.name}:{line}:1", problem)
        except yaml.MarkedYAMLError as error:
            context = f" {error.context}" if error.context else ""
            mark = error.problem_mark or error.context_mark
            return self._end(mark, f"{error.problem}{context}.{_advice(text, mark)}")
        return Document(self.name, root, tuple(self.problems))

    def _end(self, mark: Any, message: str) -> Document:
        self._problem(mark, message)
        return Document(self.name, None, tuple(self.problems))

    def _problem(self, mark: Any, message: str, code: str = "E-CFG-YAML") -> None:
        if len(self.problems) < PROBLEM_LIMIT:
            place = f"{self.name}:{mark.line + 1}:{mark.column + 1}" if mark else f"{self.name}:"
            self.problems.append(Problem(code, place, message))

    def _root(self, events: Iterator[Any]) -> Node | None:
        root: Node | None = None
        for event in events:
            kind = type(event).__name__
            if kind in {"StreamStartEvent", "DocumentStartEvent", "DocumentEndEvent", "StreamEndEvent"}:
                if kind == "DocumentStartEvent" and root is not None:
                    raise _FormError(event.start_mark, "a second document begins here; a configuration is one.")
            else:
                root = self._node(event, events, depth=0)
        is_empty = isinstance(root, Scalar) and not root.text and not root.is_quoted
        return None if is_empty else root

    def _node(self, event: Any, events: Iterator[Any], depth: int) -> Node:
        kind, mark = type(event).__name__, event.start_mark
        if kind == "AliasEvent" or event.anchor is not None:
            sign = "*" if kind == "AliasEvent" else "&"
            raise _FormError(mark, f"anchors and aliases ({sign}{event.anchor}) are not read; use `defaults:`.")
        if event.tag not in (None, "!"):
            raise _FormError(mark, f"tags ({event.tag}) are not read.")
        if depth > DEPTH_LIMIT:
            raise _FormError(mark, f"nested more than {DEPTH_LIMIT} levels deep.")
        line, column = mark.line + 1, mark.column + 1
        if kind == "ScalarEvent":
            return Scalar(event.value, event.style not in (None, ""), line, column)
        if kind == "SequenceStartEvent":
            return Sequence(tuple(self._entries(events, depth)), line, column)
        return self._mapping(events, depth, line, column)

    def _entries(self, events: Iterator[Any], depth: int) -> Iterator[Node]:
        while type(event := next(events)).__name__ != "SequenceEndEvent":
            yield self._node(event, events, depth + 1)

    def _mapping(self, events: Iterator[Any], depth: int, line: int, column: int) -> Mapping:
        items: dict[str, tuple[Scalar, Node]] = {}
        while type(event := next(events)).__name__ != "MappingEndEvent":
            key = self._node(event, events, depth + 1)
            value = self._node(next(events), events, depth + 1)
            if not isinstance(key, Scalar):
                self._problem(event.start_mark, "a key must be a word.")
            elif "${" in key.text:
                message = f"{_short(key.text)}: variables are read in values, not in keys. Write the key itself."
                self._problem(event.start_mark, message, "E-CFG-VALUE")
            elif key.text in items:
                first = items[key.text][0]
                message = f"{key.text}: stands here again; first in line {first.line}. Remove one of them."
                self._problem(event.start_mark, message, "E-CFG-DUPLICATE")
            else:
                items[key.text] = (key, value)
        return Mapping(tuple(items.values()), line, column)
