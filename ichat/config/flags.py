"""The flags of one engine, known without importing it: what exists, how many values it takes, what was meant."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from ichat.config.nearest import nearest
from ichat.config.secrets import mask

# value: one · values: one or more (or none) · optional: none or one · append: one, may be repeated
# switch: none, can only say yes · toggle: none, has a twin that says no, mostly --no-…
Kind = Literal["value", "values", "optional", "append", "switch", "toggle"]

_NUMBER = re.compile(r"-\d+$|-\d*\.\d+$")
_ENDS = {"int": re.compile(r"[-+]?\d+$"), "float": re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")}


class WrongValueError(ValueError):
    """A value that cannot be given to a flag or a setting; the text says why, for a person."""


@dataclass(frozen=True)
class Flag:
    """One option of an engine's parser, as generated into ``backends/flags/*.json``."""

    spellings: tuple[str, ...]
    dest: str
    kind: Kind
    type: str | None = None
    choices: tuple[Any, ...] | None = None
    default: Any = None
    inverses: tuple[str, ...] = ()  # spellings of a toggle that say no without a --no-

    @cached_property
    def word(self) -> str:
        """How ichat writes it: the first long spelling."""
        return next((s for s in self.spellings if s.startswith("--")), self.spellings[0])

    @property
    def key(self) -> str:
        """Its key under ``engine_args``."""
        return self.word.removeprefix("--")

    @cached_property
    def negation(self) -> str:
        """The spelling that says no; only a toggle has one."""
        return next(s for s in self.spellings if self.says_no(s))

    def says_no(self, spelling: str) -> bool:
        """Whether a spelling of a toggle, which may be cut short at a dash, switches it off."""
        if spelling in self.spellings:
            return spelling.startswith("--no-") or spelling in self.inverses
        return spelling.startswith("--no-") or any(s.startswith(f"{spelling}-") for s in self.inverses)

    def wrong_value(self, value: str) -> str | None:
        """What is wrong with a value, as far as the parser's own table tells; None when nothing is."""
        if self.choices is not None and self.type in {"str", "int", "_optional_type", None}:
            words = [str(c) for c in self.choices if c is not None]
            if value not in words:
                return f"expected one of {', '.join(words)}, found {mask(self.key, value)!r}"
        ends = _ENDS.get(self.type or "")
        if ends and not ends.match(value):
            noun = "a whole number" if self.type == "int" else "a number"
            return f"expected {noun}, found {mask(self.key, value)!r}"
        return None

    def to_argv(self, value: Any) -> list[str]:
        """The words that give this flag a value written in YAML or JSON; WrongValueError says what is wrong with it.

        ``False`` reaches the engine as false: a toggle says ``--no-…``; a switch that is off by default is left
        out, which is the same; a switch whose default the engine decides later cannot say false at all.
        """
        if self.kind in {"switch", "toggle"}:
            return self._say(value)
        if value is True and self.kind == "optional":
            return [self.word]
        if isinstance(value, bool):
            raise WrongValueError(f"takes a value, not {str(value).lower()}")
        if isinstance(value, list) and self.kind == "values":
            return [self.word, *(self._text(v, "a list entry") for v in value)] if value else []
        if isinstance(value, list) and self.kind == "append":
            return [f"{self.word}={self._text(v)}" for v in value]
        return [f"{self.word}={self._text(value)}"]

    def _say(self, value: Any) -> list[str]:
        if not isinstance(value, bool):
            raise WrongValueError(f"expected true or false, found {json.dumps(mask(self.key, value))}")
        if value:
            return [self.word]
        if self.kind == "toggle":
            return [self.negation]
        if self.default is False:
            return []
        raise WrongValueError(f"cannot be set to false: {self.word} can only switch on. Leave it out")

    def _text(self, value: Any, where: str = "") -> str:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        if where and text.startswith("-") and not _NUMBER.match(text):
            raise WrongValueError(f"{where} cannot begin with a dash, found {mask(self.key, text)!r}")
        if wrong := self.wrong_value(text):
            raise WrongValueError(wrong)
        return text


@dataclass(frozen=True)
class Argument:
    """One flag with its values, as typed: ``tokens`` are exactly the words of the command line that it covers."""

    word: str  # the flag part, as typed
    values: tuple[str, ...]
    tokens: tuple[str, ...]
    flag: Flag | None = None  # None: the engine has no such flag
    wrong: str | None = None  # what is wrong with its values

    @property
    def is_negated(self) -> bool:
        return self.flag is not None and self.flag.kind == "toggle" and self.flag.says_no(_dashes(self.word))


@dataclass(frozen=True)
class Catalogue:
    """Every flag of one engine in one version."""

    engine: str
    version: str
    flags: tuple[Flag, ...]

    @cached_property
    def by_spelling(self) -> dict[str, Flag]:
        return {spelling: flag for flag in self.flags for spelling in flag.spellings}

    @cached_property
    def by_dest(self) -> dict[str, Flag]:
        return {flag.dest: flag for flag in self.flags}

    def find(self, word: str) -> Flag | None:
        """The flag that ``word`` names: exactly, with underscores, dotted (``--foo.bar``), or cut short at a dash
        (``--tp`` for ``--tp-size``) when that fits one flag only."""
        spelling = _dashes(word)
        if self.engine == "vllm":  # only vLLM reads --foo.bar
            spelling = spelling.split(".")[0]
        if exact := self.by_spelling.get(spelling):
            return exact
        longer = {id(f): f for s, f in self.by_spelling.items() if s.startswith(f"{spelling}-")}
        return longer.popitem()[1] if spelling.startswith("--") and len(longer) == 1 else None

    def nearest(self, word: str) -> str | None:
        """The spelling that was probably meant."""
        return nearest(_dashes(word).split(".")[0], (s for s in self.by_spelling if s.startswith("--")))

    def split(self, tokens: Sequence[str]) -> Iterator[Argument]:
        """Cut a command line into arguments; every token lands in exactly one, in order.

        A word that belongs to no flag comes out as an argument of its own, with ``flag`` None and no dash.
        """
        at = 0
        while at < len(tokens):
            argument = self._take(tokens, at)
            at += len(argument.tokens)
            yield argument

    def _take(self, tokens: Sequence[str], at: int) -> Argument:
        token = tokens[at]
        word, equals, value = token.partition("=")
        if re.match(r"-O.", token) and self.engine == "vllm":  # vLLM reads -O3, -O=3 and -O.mode=3
            return Argument("-O", (token[2:],), (token,), self.by_dest.get("optimization_level"))
        flag = self.find(word) if token.startswith("-") else None
        if flag is None:
            return self._take_unknown(tokens, at)
        if equals:
            return _checked(Argument(word, (value,), (token,), flag), has_equals=True)
        end = _values_end(flag, tokens, at + 1, is_nested="." in word)
        taken = tuple(tokens[at + 1 : end])
        return _checked(Argument(word, taken, (token, *taken), flag))

    def _take_unknown(self, tokens: Sequence[str], at: int) -> Argument:
        """An unknown flag takes the words up to the next flag with it: one error, not one for each of them."""
        token = tokens[at]
        if not is_flag(token):
            return Argument(token, (), (token,))
        end = at + 1
        while "=" not in token and end < len(tokens) and not is_flag(tokens[end]):
            end += 1
        return Argument(token.partition("=")[0], tuple(tokens[at + 1 : end]), tuple(tokens[at:end]))


def is_flag(token: str) -> bool:
    """Whether an argument parser would read this word as a flag and not as a value."""
    return len(token) > 1 and token.startswith("-") and not _NUMBER.match(token)


def _dashes(word: str) -> str:
    if not word.startswith("--"):
        return word
    name, dot, rest = word.partition(".")
    return name.replace("_", "-") + dot + rest


def _values_end(flag: Flag, tokens: Sequence[str], at: int, *, is_nested: bool) -> int:
    """Where the values of a flag end that begin at ``at``."""
    most = {"switch": 0, "toggle": 0, "value": 1, "append": 1, "optional": 1, "values": len(tokens)}[flag.kind]
    most = 1 if is_nested else most
    end = at
    while end < len(tokens) and end - at < most and not is_flag(tokens[end]):
        end += 1
    return end


def _checked(argument: Argument, *, has_equals: bool = False) -> Argument:
    flag, wrong = argument.flag, None
    assert flag is not None
    if flag.kind in {"switch", "toggle"}:
        wrong = "takes no value" if has_equals and "." not in argument.word else None
    elif not argument.values and flag.kind in {"value", "append"}:
        wrong = "needs a value; one that begins with a dash is written --flag=value"
    elif "." not in argument.word:
        wrong = next(filter(None, map(flag.wrong_value, argument.values)), None)
    return Argument(argument.word, argument.values, argument.tokens, flag, wrong)
