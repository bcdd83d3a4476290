"""From the command line to settings: ichat's own words are taken out, all other words belong to the engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

from ichat.config.engine import Engine
from ichat.config.flags import Argument, Catalogue
from ichat.config.names import SEVERAL, Path, kind_word, own_flags, words
from ichat.config.secrets import mask
from ichat.config.values import Given, Layer
from ichat.errors import Problem


@dataclass
class CommandLine:
    """``givens`` came in ichat's own words; ``arguments`` are the engine's, in order. Together: every token."""

    givens: dict[Path, Given] = field(default_factory=dict)
    arguments: list[Argument] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def read_command_line(tokens: Sequence[str], engine: Engine | None) -> CommandLine:
    """``engine`` None: the backend is unknown or has no command line of its own; then every other flag is unknown."""
    found = CommandLine()
    for argument in split(tokens, engine):
        if argument.flag is None or (path := _own_paths().get(argument.flag.spellings)) is None:
            found.arguments.append(argument)
        else:
            _take(found, argument, path)
    return found


def split(tokens: Sequence[str], engine: Engine | None) -> Iterator[Argument]:
    """Every token in exactly one argument. Where a word is both ours and the engine's, it is ours.

    ichat's own words may be cut short at a dash, as those of the engines may.
    """
    theirs = engine.catalogue.flags if engine else ()
    catalogue = Catalogue(engine.name if engine else "ichat", "", (*theirs, *own_flags()))
    for argument in catalogue.split(tokens):
        is_ours = argument.flag is not None and argument.flag.spellings in _own_paths()
        yield replace(argument, word=argument.word.replace("_", "-")) if is_ours else argument


def peek(tokens: Sequence[str], word: str) -> str | None:
    """The value of one of ichat's own words, before it is known how to read the others."""
    for at, token in enumerate(tokens):
        name, equals, value = token.partition("=")
        if name == word:
            return value if equals else next(iter(tokens[at + 1 : at + 2]), None)
    return None


@cache
def _own_paths() -> dict[tuple[str, ...], Path]:
    """The setting of each of ichat's own flags, by the flag's spellings."""
    return {flag.spellings: words()[flag.word] for flag in own_flags()}


def _take(found: CommandLine, argument: Argument, path: Path) -> None:
    flag = argument.flag
    assert flag is not None
    if path in SEVERAL and len(argument.values) > 1:
        argument = _take_several(found, argument, path)
    given = Given(_raw(argument, path), argument.word, Layer.COMMAND_LINE)
    before = found.givens.get(path)
    if argument.wrong and not (kind_word(path) == "bool" and argument.values):
        found.problems.append(given.problem(f"{argument.wrong}.", "E-USAGE"))
    elif before is not None and before.raw != given.raw:
        message = f"is given twice, as {_text(before)} and as {_text(given)}. Give it once."
        found.problems.append(given.problem(message, "E-CFG-DUPLICATE"))
    else:
        found.givens[path] = given


def _take_several(found: CommandLine, argument: Argument, path: Path) -> Argument:
    """The argument with its first value; the others are further names, or a problem where they are keys."""
    first, *others = argument.values
    given = Given(others, argument.word, Layer.COMMAND_LINE)
    if path == ("model", "served_model_name"):
        found.givens[("model", "aliases")] = given
    else:
        message = "takes one key. Give further ones with a name each: server.api_keys in the configuration file."
        found.problems.append(given.problem(message, "E-USAGE"))
    return replace(argument, values=(first,))


def _raw(argument: Argument, path: Path) -> str | list[str] | bool:
    """--x, --no-x and --x=false say true or false; a list may be given as several words or as one."""
    if kind_word(path) == "bool":
        return argument.values[0] if argument.values else not argument.is_negated
    if kind_word(path) == "list":
        return list(argument.values) if len(argument.values) != 1 else argument.values[0]
    return argument.values[0] if argument.values else ""


def _text(given: Given) -> str:
    return "true" if given.raw is True else "false" if given.raw is False else f'"{mask(given.place, given.raw)}"'
