"""What each setting holds, read off the schema: its kind, and the words in which a person is told what is expected."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from ichat.config.schema import ServedName

_SECRETS = dict[str, SecretStr]
NAME = "a name (letters, digits and . _ / : -, beginning with a letter or digit)"
_PRINTABLE = get_args(ServedName)[1].pattern
HIDDEN_CHOICES = {"fake"}  # for tests only, not to be recommended


@dataclass(frozen=True)
class Kind:
    """What a setting holds. ``tokens`` is a whole number that may end in k; ``texts`` a mapping to texts,
    ``variables`` one whose keys are names of variables; ``gpus`` a number of GPUs or lists of their ids."""

    word: Literal["int", "tokens", "float", "bool", "text", "list", "mapping", "texts", "variables", "gpus"]
    is_optional: bool
    is_secret: bool
    expected: str  # "a whole number from 0 to 65535"


@cache
def kinds(section: type[BaseModel]) -> dict[str, Kind]:
    """The kind of every setting of a section (sections within it left out)."""
    fields = section.model_fields.items()
    return {name: _kind(name, info) for name, info in fields if not is_section(info)}


def is_section(info: FieldInfo) -> bool:
    return isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel)


def _kind(name: str, info: FieldInfo) -> Kind:
    options, bounds = _unfold(info.annotation)
    bounds += info.metadata
    is_optional = NoneType in options
    base = next(option for option in options if option is not NoneType)
    word: Any = "text"
    if get_origin(base) is not Literal and base is not SecretStr:
        words = {int: "int", float: "float", bool: "bool", str: "text", tuple: "list", dict: "mapping"}
        word = "texts" if base in (dict[str, str], _SECRETS) else words[get_origin(base) or base]
    word = {"context_length": "tokens", "gpus": "gpus", "env": "variables"}.get(name, word)
    return Kind(word, is_optional, base in (SecretStr, _SECRETS), _expected(name, word, base, bounds))


def _unfold(annotation: Any) -> tuple[list[Any], list[Any]]:
    """The alternatives of an annotation, without wrappers, and all bounds found on the way."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *metadata = get_args(annotation)
        options, bounds = _unfold(inner)
        return options, [*bounds, *metadata]
    if origin in {Union, UnionType}:
        parts = [_unfold(option) for option in get_args(annotation)]
        return [o for options, _ in parts for o in options], [b for _, bounds in parts for b in bounds]
    return [annotation], []


def _expected(name: str, word: str, base: Any, bounds: list[Any]) -> str:
    if get_origin(base) is Literal:
        *first, last = [choice for choice in get_args(base) if choice not in HIDDEN_CHOICES]
        return f"{', '.join(first)} or {last}"
    nouns = {
        "int": "a whole number",
        "tokens": "a whole number",
        "float": "a number of seconds" if name.endswith("_s") else "a number",
        "bool": "true or false",
        "list": "a list",
        "mapping": "a mapping",
        "texts": "a mapping of names to texts",
        "variables": "a mapping of names to texts",
        "text": "text",
        "gpus": "a number of GPUs or a list of lists of their ids",
    }
    if word == "gpus":
        return nouns[word]
    if patterns := {b.pattern for b in _flat(bounds) if getattr(b, "pattern", None)}:
        return "a name without blanks, not beginning with a dash" if _PRINTABLE in patterns else NAME
    return nouns[word] + _range(_flat(bounds))


def _flat(bounds: list[Any]) -> list[Any]:
    return [inner for b in bounds for inner in (b.metadata if isinstance(b, FieldInfo) else [b])]


def _range(bounds: list[Any]) -> str:
    found = {
        key: getattr(b, key) for b in bounds for key in ("ge", "gt", "le", "lt") if getattr(b, key, None) is not None
    }
    if "ge" in found and "le" in found:
        return f" from {found['ge']} to {found['le']}"
    if "gt" in found and "le" in found:
        return f" above {found['gt']}, at most {found['le']}"
    if "ge" in found:
        return f" of at least {found['ge']}"
    if "gt" in found:
        return f" above {found['gt']}"
    return ""
