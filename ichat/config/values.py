"""From what was written to a typed value: one word for each kind of setting, one sentence when it does not fit."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

from pydantic import BaseModel, ValidationError

from ichat.config.characters import surrounded, wrong_character, wrong_line
from ichat.config.document import Mapping, Node, Scalar, Sequence
from ichat.config.flags import WrongValueError
from ichat.config.kinds import Kind, kinds
from ichat.config.secrets import is_secret_name, mask
from ichat.errors import ExitCode, Problem


class Layer(IntEnum):
    """Who spoke; the highest is heard."""

    DEFAULT = 0
    FILE = 1
    ENVIRONMENT = 2
    COMMAND_LINE = 3


@dataclass(frozen=True)
class Given:
    """A value that somebody gave: what, and where. ``raw`` is a YAML node, or text from elsewhere."""

    raw: Node | str | list[str] | bool
    place: str
    layer: Layer
    subject: str = ""  # the setting's path where the place is a line of a file

    def inner(self, key: str, node: Node | None = None) -> Given:
        """A part of this value: an entry of a mapping or a list."""
        if node is None:
            return replace(self, subject=f"{self.subject}.{key}" if self.subject else key)
        place = f"{self.place.rsplit(':', 2)[0]}:{node.line}:{node.column}"
        return Given(node, place, self.layer, f"{self.subject}.{key}")

    def problem(self, message: str, code: str = "E-CFG-VALUE") -> Problem:
        is_usage = self.layer is Layer.COMMAND_LINE
        exit_code = ExitCode.USAGE if is_usage else ExitCode.CONFIG
        subject = f"{self.subject}: " if self.subject else ""
        return Problem(code, self.place if self.layer is Layer.FILE else f"{self.place}:", subject + message, exit_code)


def read_section(section: type[BaseModel], givens: dict[str, Given]) -> tuple[dict[str, Any], list[Problem]]:
    """The typed, checked values of a section, and a problem for each that does not fit. Null values are left out."""
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, given in givens.items():
        try:
            value = read(kinds(section)[name], given.raw)
        except WrongValueError as error:
            problems.append(given.problem(str(error)))
            continue
        if value is not None:
            values[name] = value
    wrong = _out_of_bounds(section, values)
    for name, at in wrong.items():
        if at is None or kinds(section)[name].word != "list":
            told = str(_unfit(kinds(section)[name], _literal(givens[name].raw)))
        else:
            meant = (section.model_fields[name].description or "").partition(". ")[0]
            told = f"entry {at + 1} of the list does not fit: found {_shown_entry(values[name][at])}, expected {meant}."
        problems.append(givens[name].problem(told))
    return {name: value for name, value in values.items() if name not in wrong}, problems


def _out_of_bounds(section: type[BaseModel], values: dict[str, Any]) -> dict[str, int | None]:
    """Which values are of the right kind but not allowed, and which entry of a list is not."""
    found: dict[str, int | None] = {}
    try:
        section.model_validate(values)
    except ValidationError as error:
        for one in error.errors(include_url=False, include_context=False):
            name, *inner = one["loc"] or ("",)
            found.setdefault(str(name), inner[0] if inner and isinstance(inner[0], int) else None)
    return {name: found[name] for name in values if name in found}


def _shown_entry(value: Any) -> str:
    return json.dumps(mask("", value), ensure_ascii=False) if isinstance(value, str | int | float) else "no text"


def read(kind: Kind, raw: Node | str | list[str] | bool) -> Any:
    """A value of the right kind (bounds are not looked at); WrongValueError says what was expected and found."""
    value = _from_node(kind, raw) if isinstance(raw, Scalar | Sequence | Mapping) else _from_words(kind, raw)
    if kind.word == "variables":
        _check_names(value)
    if kind.is_secret and isinstance(value, str) and (wrong := wrong_line(value)):
        raise WrongValueError(f"{wrong}; it must hold the secret and no more.")
    if wrong := wrong_character(value):
        raise WrongValueError(f"{wrong}. Remove it.")
    # In a template it may be meant.
    if not kind.is_secret and isinstance(value, str) and "{" not in value and (wrong := surrounded(value)):
        raise WrongValueError(f"{_literal(value)} {wrong}.")
    return value


def _check_names(variables: dict[str, Any]) -> None:
    for name in variables:
        if not name or "=" in name:
            shown = name.partition("=")[0] + "=…" if name else ""  # what follows may be the secret itself
            raise WrongValueError(f'expected names of variables, not empty and without "=", found "{shown}".')


def _unfit(kind: Kind, found: str) -> WrongValueError:
    return WrongValueError(f"expected {kind.expected}{'' if kind.is_secret else f', found {found}'}.")


def _literal(raw: Any) -> str:
    if isinstance(raw, Scalar | Sequence | Mapping):
        return raw.literal
    return json.dumps(mask("", raw), ensure_ascii=False) if raw != "" else "nothing"


def _from_words(kind: Kind, raw: str | list[str] | bool) -> Any:
    """From the environment or the command line, where everything is text."""
    if isinstance(raw, bool) or (kind.word == "list" and isinstance(raw, list)):
        return raw
    text = raw if isinstance(raw, str) else " ".join(raw)
    readers: dict[str, Any] = {"int": _int, "float": _float, "bool": _bool, "list": _list, "tokens": _tokens}
    readers |= {"mapping": _mapping, "texts": _mapping, "variables": _mapping, "gpus": _gpus}
    value = readers[kind.word](text) if kind.word in readers else (text or None)
    if value is None:
        # A broken mapping is not shown: what is secret in it could not be told.
        raise _unfit(kind, "text that is no JSON mapping" if readers.get(kind.word) is _mapping else _literal(text))
    return value


def _int(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[-+]?[0-9]{1,99}", text) else None


def _float(text: str) -> float | None:
    return float(text) if re.fullmatch(r"[-+]?([0-9]{1,99}(\.[0-9]*)?|\.[0-9]+)", text) else None


def _bool(text: str) -> bool | None:
    return {"true": True, "1": True, "false": False, "0": False}.get(text.lower())


def _tokens(text: str) -> int | None:
    """A number of tokens; both engines read 8k as 8000, and 8192 is 8K to vLLM, 8Ki to SGLang."""
    match = re.fullmatch(r"([0-9]{1,99})(k|K|Ki)?", text)
    return int(match[1]) * {None: 1, "k": 1000}.get(match[2], 1024) if match else None


def _list(text: str) -> list[Any] | None:
    """A JSON list, or words as a shell would cut them."""
    if text.lstrip().startswith("["):
        entries: list[Any] | None = _json(text, list)
        return entries
    import shlex

    try:
        return shlex.split(text)
    except ValueError:
        return None


def _gpus(text: str) -> int | list[Any] | None:
    return _int(text) if not text.lstrip().startswith("[") else _list(text)


def _mapping(text: str) -> dict[str, Any] | None:
    found: dict[str, Any] | None = _json(text, dict)
    return found


def _json(text: str, kind: type[Any]) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, kind) else None


def _from_node(kind: Kind, node: Node) -> Any:
    if isinstance(node, Scalar):
        return _from_scalar(kind, node)
    wanted: Any = Sequence if kind.word in {"list", "gpus"} else Mapping
    if kind.word not in {"list", "gpus", "mapping", "texts", "variables"} or not isinstance(node, wanted):
        raise _unfit(kind, node.literal)
    return _texts(kind, node) if isinstance(node, Mapping) and kind.word != "mapping" else plain(node)


def _texts(kind: Kind, node: Mapping) -> dict[str, str]:
    """A mapping to texts; a plain number is the text it was written as."""
    texts = {}
    for key, value in node.items:
        if not isinstance(value, Scalar) or value.is_trap or value.value is None or isinstance(value.value, bool):
            found = "something else" if kind.is_secret or is_secret_name(key.text) else value.literal
            raise WrongValueError(f"{key.text}: expected text, found {found}; put it in quotes.")
        texts[key.text] = value.text
    return texts


def _from_scalar(kind: Kind, node: Scalar) -> Any:
    if node.is_null and kind.is_optional:
        return None
    value = None if node.is_trap else node.value
    if kind.word == "tokens" and isinstance(value, str) and not node.is_quoted:
        value = _tokens(value)
    wanted: Any = {"int": int, "tokens": int, "gpus": int, "float": (int, float), "bool": bool, "text": str}.get(
        kind.word, ()
    )
    is_bool_for_number = isinstance(value, bool) and kind.word != "bool"
    if value is None or not isinstance(value, wanted) or is_bool_for_number or value == "":
        raise WrongValueError(f"{str(_unfit(kind, node.literal)).removesuffix('.')}{_advice(kind, node)}.")
    return value


def _advice(kind: Kind, node: Scalar) -> str:
    if (kind.is_secret and not node.variables) or not node.text:
        return ""
    if kind.word == "text" and not node.is_quoted:
        return "; put it in quotes if that is the text"
    if kind.word == "bool" and node.is_trap:
        return "; write true or false"
    return "; remove the quotes" if node.is_quoted and _fits_bare(kind, node) else ""


def _fits_bare(kind: Kind, node: Scalar) -> bool:
    """Whether a quoted text would do without its quotes."""
    try:
        _from_scalar(kind, replace(node, is_quoted=False))
    except WrongValueError:
        return False
    return True


def plain(node: Node, name: str = "") -> Any:
    """A free-form part of a file as Python has it; a word that YAML readers disagree on is refused.

    ``name`` is the key that it stands under: what is secret by its name is not shown.
    """
    if isinstance(node, Mapping):
        return {key.text: plain(value, key.text) for key, value in node.items}
    if isinstance(node, Sequence):
        return [plain(entry, name) for entry in node.entries]
    if node.is_trap:
        raise WrongValueError(
            f"{'it' if is_secret_name(name) else node.literal} means different things to different YAML readers. "
            "Write true, false, null or a plain number, or put it in quotes."
        )
    if wrong := wrong_character(node.value):
        raise WrongValueError(f"{wrong}. Remove it.")
    return node.value
