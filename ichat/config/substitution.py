"""Variables within the configuration file: `${NAME}` and `${NAME:-default}` in any value, never in a key."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from ichat.config import document
from ichat.config.document import Node, Scalar
from ichat.config.secrets import is_secret_variable
from ichat.config.values import Given
from ichat.errors import Problem

_FORM = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-((?:(?!\$\{)[^}])*))?\}|\$\{")


class _FormError(Exception):
    """The text says what is wrong; the code, which kind of problem that is."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class Substitution:
    """``environ`` gives the values. ``hidden`` are those of variables that hold secrets by their names."""

    environ: Mapping[str, str]
    hidden: set[str] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)

    def fill(self, given: Given) -> Given:
        """The same with every variable replaced; where that cannot be, a problem, and the text as it was written."""
        raw = given.raw
        is_node = isinstance(raw, Scalar | document.Sequence | document.Mapping)
        return replace(given, raw=self._node(given, raw)) if is_node else given  # type: ignore[arg-type]

    def _node(self, given: Given, node: Node) -> Node:
        if isinstance(node, document.Mapping):
            items = ((key, self._node(given.inner(key.text, value), value)) for key, value in node.items)
            return replace(node, items=tuple(items))
        if isinstance(node, document.Sequence):
            entries = (self._node(given.inner(str(at), entry), entry) for at, entry in enumerate(node.entries))
            return replace(node, entries=tuple(entries))
        try:
            return self._scalar(node) if "${" in node.text else node
        except _FormError as error:
            self.problems.append(given.problem(str(error), error.code))
            return node

    def _scalar(self, node: Scalar) -> Scalar:
        """Typed by its result, as if that were written there: text in quotes, else whatever it looks like."""
        names = tuple(dict.fromkeys(_names(node)))
        text = _FORM.sub(self._value, node.text)
        text = text if node.is_quoted else text.strip()
        return replace(node, text=text, variables=names, is_hidden=any(map(is_secret_variable, names)))

    def _value(self, match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        if name is None:
            if match[0] == "$${":
                return "${"
            forms = "Write ${NAME}, or ${NAME:-default} with a default that has no } in it, or $${ for the sign itself."
            raise _FormError(f"a variable that begins with ${{ has another form. {forms}", "E-CFG-VALUE")
        value = self.environ.get(name)
        if value is None and default is None:
            advice = f"Set it, or write ${{{name}:-default}}."
            raise _FormError(f"the variable {name} is not set. {advice}", "E-CFG-UNSET-VARIABLE")
        text = value if value or (value is not None and default is None) else (default or "")
        if text not in {"", "null"} and is_secret_variable(name):
            self.hidden.add(text)
        return text


def variables_in(node: Node | None) -> set[str]:
    """The names of all variables in a file."""
    return set(_names(node)) if node is not None else set()


def _names(node: Node) -> Iterator[str]:
    if isinstance(node, document.Mapping):
        for _, value in node.items:
            yield from _names(value)
    elif isinstance(node, document.Sequence):
        for entry in node.entries:
            yield from _names(entry)
    else:
        yield from (match[1] for match in _FORM.finditer(node.text) if match[1])
