"""All keys that clients may use, by name: `api_key` (named default), `api_keys` and the files of `api_key_files`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from pydantic import SecretStr

from ichat.config import document
from ichat.config.characters import wrong_line
from ichat.config.schema import Server
from ichat.config.sources import Sources
from ichat.config.values import Given
from ichat.errors import Problem

#: The name of the key that has none.
DEFAULT = "default"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")


@dataclass
class Keys:
    """``givens`` says where each was given."""

    values: dict[str, SecretStr] = field(default_factory=dict)
    givens: dict[str, Given] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def gather_keys(server: Server, givens: Mapping[str, Given], sources: Sources) -> Keys:
    """``givens`` are those of the server's settings, by name. No key is ever shown, nor a name that may be one."""
    found = Keys()
    for name, text, given in _all(server, givens, sources, found.problems):
        wrong = "is empty, which would let everybody in" if not text else wrong_line(text)
        same = next((other for other, value in found.values.items() if value.get_secret_value() == text), None)
        if name in found.givens:
            message = f"the key {name} is given by {found.givens[name].place} too. Give it once."
            found.problems.append(given.problem(message, "E-CFG-DUPLICATE"))
        elif wrong:
            found.problems.append(given.problem(f"{wrong}; it must hold the secret and no more.", "E-CFG-SECRET"))
        elif same is not None:
            message = f"is the same key as {same} ({found.givens[same].place}). Give each name a key of its own."
            found.problems.append(given.problem(message, "E-CFG-DUPLICATE"))
        else:
            found.values[name] = SecretStr(text)
            found.givens[name] = given
    return found


def _all(
    server: Server, givens: Mapping[str, Given], sources: Sources, problems: list[Problem]
) -> Iterator[tuple[str, str, Given]]:
    """Each key with its name and its place; what has no good name or cannot be read is a problem."""
    if server.api_key is not None:
        yield DEFAULT, server.api_key.get_secret_value(), givens["api_key"]
    for setting, texts in (("api_keys", server.api_keys), ("api_key_files", server.api_key_files)):
        for name, value in texts.items():
            given = _entry(givens[setting], name)
            if not _NAME.match(name):
                message = "the name of a key has letters, digits and . _ - only, at most 64; this one does not."
                problems.append(replace(given, subject=givens[setting].subject).problem(message))
            elif isinstance(value, SecretStr):
                yield name, value.get_secret_value(), given
            else:
                text, wrong = sources.secret_file(value)
                if wrong:
                    problems.append(given.problem(f"{value}: {wrong}.", "E-CFG-SECRET"))
                else:
                    yield name, text, given


def _entry(given: Given, name: str) -> Given:
    if isinstance(given.raw, document.Mapping):
        return given.inner(name, next(value for key, value in given.raw.items if key.text == name))
    return given.inner(name)
