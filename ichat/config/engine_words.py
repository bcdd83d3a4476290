"""What somebody said in an engine's own words, on one layer: unified arguments recognised, the rest kept verbatim."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ichat.config.characters import surrounded, wrong_character
from ichat.config.engine import Engine
from ichat.config.flags import Argument, Flag, WrongValueError
from ichat.config.kinds import kinds
from ichat.config.names import words
from ichat.config.nearest import nearest, slips
from ichat.config.schema import ModelSettings
from ichat.config.secrets import masked_argv
from ichat.config.values import Given, read
from ichat.errors import Problem


@dataclass
class EngineWords:
    """``settings`` are unified arguments said in the engine's words; ``arguments`` (words) and ``args`` (a mapping)
    what is the engine's alone; ``givens`` tells where each dest of those was given, ``dests`` the dest of each key."""

    settings: list[tuple[str, Given]] = field(default_factory=list)
    arguments: list[Argument] = field(default_factory=list)
    args: dict[str, Any] = field(default_factory=dict)
    dests: dict[str, str] = field(default_factory=dict)
    givens: dict[str, Given] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def absorb(self, other: EngineWords) -> None:
        """Add what another part of the same layer says; the same flag in both is a problem."""
        for dest in self.givens.keys() & other.givens.keys():
            message = f"{dest.replace('_', '-')} is given by {self.givens[dest].place} too. Give it once."
            other.problems.append(other.givens[dest].problem(message, "E-CFG-DUPLICATE"))
        self.settings += other.settings
        self.arguments += other.arguments
        self.args |= other.args
        self.dests |= other.dests
        self.givens |= other.givens
        self.problems += other.problems


@dataclass(frozen=True)
class Reader:
    """Reads words and mappings for ``engine``; ``others`` are the engines whose words people confuse with its own."""

    engine: Engine
    others: Sequence[Engine]

    def read_arguments(self, arguments: Sequence[Argument], given: Callable[[Argument], Given]) -> EngineWords:
        """Words of a command line; ``given`` says where each was given."""
        found = EngineWords()
        for argument in arguments:
            place = given(argument)
            if argument.flag is None or self._is_gone(argument.word):
                found.problems.append(self._unknown(argument.word, place))
            elif problem := self._refused(argument.flag, argument.wrong or _odd(self.engine, argument), place):
                found.problems.append(problem)
            elif settings := self._as_settings(argument, place):
                found.settings += settings
            else:
                self._keep(found, argument, place)
        return found

    def read_mapping(self, args: Mapping[str, Any], given: Callable[[str], Given]) -> EngineWords:
        """A mapping of flags to values, as under ``engine_args``; null leaves the engine's default."""
        found = EngineWords()
        for key, value in args.items():
            place = given(key)
            flag = self.engine.catalogue.find(f"--{key}") if not key.startswith("-") and "." not in key else None
            if flag is None:
                found.problems.append(self._unknown(f"--{key.lstrip('-')}", place, is_key=True))
            elif problem := self._refused(flag, _wrong(flag, value), place):
                found.problems.append(problem)
            elif value is not None and (settings := self._value_as_settings(flag, value, place)):
                found.settings += settings
            elif flag.dest in found.givens:
                found.problems.append(place.problem(f"{flag.key} is given twice here.", "E-CFG-DUPLICATE"))
            elif value is not None:
                found.args[flag.key] = value
                found.dests[flag.key] = flag.dest
                found.givens[flag.dest] = place
        return found

    def _is_gone(self, word: str) -> bool:
        """Also where it is the beginning of another flag, which somebody who knows the old one does not mean."""
        return word in self.engine.gone and word not in self.engine.catalogue.by_spelling

    def _keep(self, found: EngineWords, argument: Argument, place: Given) -> None:
        """Keep an argument verbatim; the same flag twice with different values is a contradiction."""
        assert argument.flag is not None
        dest = argument.flag.dest
        before = [a for a in found.arguments if a.flag and a.flag.dest == dest]
        is_part = argument.flag.kind == "append" or "." in argument.word  # --config.key value: one part of a JSON
        same = any((a.values, a.is_negated) == (argument.values, argument.is_negated) for a in before)
        if before and not same and not is_part:
            message = f"is given twice with different values: {_said(before[0])} and {_said(argument)}."
            found.problems.append(place.problem(message, "E-CFG-DUPLICATE"))
        elif not before or is_part:
            found.arguments.append(argument)
            found.givens[dest] = place

    def _refused(self, flag: Flag, wrong: str | None, place: Given) -> Problem | None:
        for spelling in flag.spellings:
            if spelling in self.engine.reserved:
                return place.problem(
                    f"{spelling} is not for use here: {self.engine.reserved[spelling]}.", "E-CFG-RESERVED"
                )
        if wrong:
            return place.problem(f"{self.engine.title}'s {flag.word} {wrong}.")
        return None

    def _as_settings(self, argument: Argument, place: Given) -> list[tuple[str, Given]]:
        assert argument.flag is not None
        if "." in argument.word:
            return []
        if argument.flag.kind in {"toggle", "switch"}:
            return self._value_as_settings(argument.flag, not argument.is_negated, place)
        value = list(argument.values) if argument.flag.kind == "values" else argument.values[0]
        return self._value_as_settings(argument.flag, value, place)

    def _value_as_settings(self, flag: Flag, value: Any, place: Given) -> list[tuple[str, Given]]:
        """The unified argument that a flag with this value is, if it means just the same."""
        word = self.engine.word_of(flag)
        if word is None or not word.is_same:
            return []
        aliases: list[tuple[str, Given]] = []
        if word.setting == "served_model_name" and isinstance(value, list):  # vLLM: the first name, and the others
            names = [str(name) for name in value]
            value = names[0] if names else None
            aliases = [("aliases", replace(place, raw=names[1:]))] if names[1:] else []
        kind = kinds(ModelSettings)[word.setting]
        if kind.word != "list" and isinstance(value, list):
            value = value[0] if len(value) == 1 else None
        raw = value if isinstance(value, bool | list) else str(value)
        try:
            read(kind, raw)
        except WrongValueError:
            return []  # the engine's flag takes more than the unified argument: --max-model-len auto
        return [(word.setting, replace(place, raw=raw)), *aliases] if value is not None else []

    def _unknown(self, word: str, place: Given, *, is_key: bool = False) -> Problem:
        if not word.startswith("-"):
            return place.problem(f'the word "{word}" belongs to no flag. {_stray(word)}', "E-USAGE")
        advice = self.engine.gone.get("--" + word.lstrip("-").replace("_", "-"))
        advice = f"{advice}." if advice else self._advice(word, is_key=is_key)
        message = f"{self.engine.version} has no flag {word}; {advice}"
        return place.problem(message, "E-CFG-UNKNOWN-FLAG")

    def _advice(self, word: str, *, is_key: bool) -> str:
        name = word.removeprefix("--").replace("-", "_")
        if is_key and "." in name:
            return f"what stands behind the dot is written as a mapping: {{{word[2:].partition('.')[0]}: {{…}}}}."
        if is_key and f"--{name.replace('_', '-')}" in words():
            return f"{name} is a setting of the model itself: write it beside engine_args."
        meant = _closest(word, self.engine.catalogue.nearest(word), None if is_key else _nearest_own(word))
        of_others = filter(None, (self._of_other(other, word, is_key) for other in self.others))
        if (meant is None or slips(word, meant) > 1) and (advice := next(of_others, None)):
            return advice
        return (
            f"did you mean {meant.removeprefix('--') if is_key else meant}?" if meant else "nothing is called like it."
        )

    def _of_other(self, other: Engine, word: str, is_key: bool) -> str | None:
        """What to say to somebody who used the other engine's word."""
        flag = other.catalogue.find(word)
        if flag is None:
            return None
        if unified := other.word_of(flag):
            setting = unified.setting if is_key else f"--{unified.setting.replace('_', '-')}"
            where = " beside engine_args" if is_key else ""
            return f"it is {other.title}'s word for what both engines understand as {setting}: use that{where}."
        if equal := other.equivalents.get(flag.word):
            return f"it is a flag of {other.version}; {self.engine.title} has {equal}."
        return f"it is a flag of {other.version}." if word in flag.spellings else None


def _odd(engine: Engine, argument: Argument) -> str | None:
    """What is wrong with the characters of an argument's values; around those of a unified argument, too."""
    if wrong := wrong_character(argument.values):
        return wrong
    is_unified = argument.flag is not None and engine.word_of(argument.flag) is not None and "." not in argument.word
    around = (surrounded(value) for value in argument.values if "{" not in value) if is_unified else ()
    found = next(filter(None, around), None)
    return f"has a value that {found}" if found else None


def _nearest_own(word: str) -> str | None:
    return nearest(word.replace("_", "-"), words())


def _closest(word: str, *found: str | None) -> str | None:
    meant = (w for w in found if w and (_negates(w) == _negates(word) or slips(word, w) == 1))
    return min(meant, key=lambda w: slips(word, w), default=None)


def _negates(word: str) -> bool:
    """Whether a flag says no: a hint must never be the opposite of what was typed."""
    return word.startswith(("--no-", "--disable-"))


def _wrong(flag: Flag, value: Any) -> str | None:
    try:
        if value is not None:
            flag.to_argv(value)
    except WrongValueError as error:
        return str(error)
    return None


def _said(argument: Argument) -> str:
    return " ".join(masked_argv(argument.tokens))


def _stray(word: str) -> str:
    if word.lower() in {"true", "false"}:
        return "A flag that is true or false takes no value: write --flag or --no-flag, or --flag=false."
    return "A model is named with --model-path; a value that begins with a dash is written --flag=value."
