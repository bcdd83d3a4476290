"""From the tree of a configuration file to settings with their places; every key is known or is a problem."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import BaseModel

from ichat.config.document import Document, Mapping, Node, Scalar
from ichat.config.kinds import is_section, kinds
from ichat.config.names import Path, sections
from ichat.config.nearest import nearest
from ichat.config.schema import ModelSettings
from ichat.config.values import Given, Layer
from ichat.errors import Problem


@dataclass
class FileSettings:
    """What a file gives. ``models`` keeps the order and the place of each name."""

    givens: dict[Path, Given] = field(default_factory=dict)
    models: dict[str, Given] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def read_file(document: Document | None) -> FileSettings:
    found = FileSettings()
    if document is None:
        return found
    found.problems += document.problems
    if document.root is not None:
        _Walk(document, found).root(document.root)
    return found


@dataclass
class _Walk:
    document: Document
    found: FileSettings

    def root(self, node: Node) -> None:
        if not isinstance(node, Mapping):
            return self._problem(node, "", f"expected a mapping with server, models …, found {node.literal}.")
        fixed = {path[0] for path in sections()}
        for key, value in node.items:
            if key.text in fixed:
                self._section((key.text,), value)
            elif key.text == "defaults":
                self._settings(("defaults",), value, ModelSettings)
            elif key.text == "models":
                self._models(value)
            else:
                self._unknown((), key, [*fixed, "defaults", "models"])
        return None

    def _section(self, path: Path, node: Node) -> None:
        section = sections()[path]
        inner = {name for name, info in section.model_fields.items() if is_section(info)}
        for key, value in self._items(path, node):
            if key.text in inner:
                self._section((*path, key.text), value)
            else:
                self._setting(path, key, value, section)

    def _settings(self, path: Path, node: Node, section: type[BaseModel]) -> None:
        for key, value in self._items(path, node):
            self._setting(path, key, value, section)

    def _models(self, node: Node) -> None:
        for key, value in self._items(("models",), node):
            path = ("models", key.text)
            self.found.models[key.text] = Given(key, self.document.place(key), Layer.FILE, ".".join(path))
            self._settings(path, value, ModelSettings)

    def _items(self, path: Path, node: Node) -> tuple[tuple[Scalar, Node], ...]:
        if isinstance(node, Mapping):
            return node.items
        if not (isinstance(node, Scalar) and (node.is_null or not node.text)):  # `models:` alone is an empty section
            self._problem(node, ".".join(path), f"expected a mapping, found {node.literal}.")
        return ()

    def _setting(self, path: Path, key: Scalar, value: Node, section: type[BaseModel]) -> None:
        full = (*path, key.text)
        if key.text in kinds(section):
            self.found.givens[full] = Given(value, self.document.place(value), Layer.FILE, ".".join(full))
        else:
            self._unknown(path, key, list(section.model_fields))

    def _unknown(self, path: Path, key: Scalar, known: list[str]) -> None:
        meant = nearest(key.text.replace("-", "_"), known)
        advice = f"did you mean {meant!r}?" if meant else _elsewhere(key.text)
        self._problem(key, ".".join((*path, key.text)), f"unknown key; {advice}", "E-CFG-UNKNOWN-KEY")

    def _problem(self, node: Node, subject: str, message: str, code: str = "E-CFG-VALUE") -> None:
        place = self.document.place(node)
        self.found.problems.append(Problem(code, place, f"{subject}: {message}" if subject else message))


def _elsewhere(key: str) -> str:
    """Where a key does belong that is unknown here."""
    if key in ModelSettings.model_fields:
        return f"{key} belongs under a model or under defaults."
    # Of several sections that have it the first is meant: `port` is the server's.
    homes: dict[str, str] = {}
    for path, section in sections().items():
        for name in section.model_fields:
            homes.setdefault(name, ".".join(path))
    if meant := nearest(key, homes):
        return f"did you mean {homes[meant]}.{meant}?"
    return "a flag of an engine belongs under engine_args."
