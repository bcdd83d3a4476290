"""One model out of all that was said about it: the highest rank wins, equals that disagree are a problem."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ichat.config.engine import Engine
from ichat.config.engine_words import EngineWords
from ichat.config.schema import ModelSettings
from ichat.config.values import Given, read_section
from ichat.errors import Problem

MAPPINGS = ("vllm_args", "sglang_args", "env")


@dataclass
class Rank:
    """What was said of a model in one place: settings by name, and words of its engine."""

    givens: dict[str, Given]
    words: EngineWords = field(default_factory=EngineWords)
    of_others: dict[str, tuple[dict[str, Any], Given]] = field(default_factory=dict)  # vllm_args for SGLang


@dataclass
class Merged:
    """The outcome: checked values, and where each came from."""

    values: dict[str, Any] = field(default_factory=dict)
    givens: dict[str, Given] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def merge(ranks: Sequence[Rank], engine: Engine | None) -> Merged:
    """``ranks`` stand lowest first. A wrong value is a problem even where a higher rank overrides it."""
    merged = Merged()
    for rank in ranks:
        _understand(rank, merged)
        values, problems = read_section(ModelSettings, rank.givens)
        merged.problems += [*problems, *rank.words.problems]
        if engine:
            _contradictions(rank, engine, merged)
            _take_back(rank, engine, merged)
        _lay_over(rank, values, merged)
    _engine_words(ranks, engine, merged)
    return merged


def _lay_over(rank: Rank, values: dict[str, Any], merged: Merged) -> None:
    for name, given in rank.givens.items():
        merged.givens[name] = given
        if name not in values:  # null takes back what a lower rank said
            merged.values.pop(name, None)
        elif name in MAPPINGS:
            merged.values[name] = merged.values.get(name, {}) | values[name]
        else:
            merged.values[name] = values[name]
    for name, (args, given) in rank.of_others.items():
        merged.values[name] = merged.values.get(name, {}) | args
        merged.givens[name] = given


def _understand(rank: Rank, merged: Merged) -> None:
    """A unified argument in the engine's words counts as the unified argument."""
    for name, given in rank.words.settings:
        before = rank.givens.get(name)
        if before is None:
            rank.givens[name] = given
        elif not _agree(name, before, given):
            message = f"says {name} again, with another value than {before.place}. Say it once."
            merged.problems.append(given.problem(message, "E-CFG-CONFLICT"))


def _agree(name: str, a: Given, b: Given) -> bool:
    (first, wrong), (second, _) = read_section(ModelSettings, {name: a}), read_section(ModelSettings, {name: b})
    return bool(wrong) or first == second


def _contradictions(rank: Rank, engine: Engine, merged: Merged) -> None:
    """A unified argument beside the engine's own flag for the same thing, which does not mean just the same."""
    for name, given in rank.givens.items():
        flag = engine.flag_of(name) if name in engine.by_setting else None
        own = rank.words.givens.get(flag.dest) if flag else None
        if own is not None and flag is not None:
            message = f"{flag.word} says what {name} ({given.place}) says already. Say it once."
            merged.problems.append(own.problem(message, "E-CFG-CONFLICT"))


def _take_back(rank: Rank, engine: Engine, merged: Merged) -> None:
    """A flag of the engine takes back the unified argument of a lower rank for the same thing."""
    for dest in rank.words.givens:
        word = engine.word_of(engine.catalogue.by_dest[dest])
        if word is not None:
            merged.values.pop(word.setting, None)
            merged.givens.pop(word.setting, None)


def _engine_words(ranks: Sequence[Rank], engine: Engine | None, merged: Merged) -> None:
    """Of the engine's words, each flag keeps what the highest rank says of it."""
    args: dict[str, Any] = {}
    argv: list[str] = []
    for at, rank in enumerate(ranks):
        said = _said(ranks[at + 1 :], engine)
        for key, value in rank.words.args.items():
            if rank.words.dests[key] not in said:
                args[key] = value
                merged.givens[f"engine_args.{key}"] = rank.words.givens[rank.words.dests[key]]
        for argument in rank.words.arguments:
            flag = argument.flag
            if flag is not None and (flag.kind == "append" or flag.dest not in said):
                argv += argument.tokens
                merged.givens[f"extra_argv.{flag.key}"] = rank.words.givens[flag.dest]
    merged.values |= {"engine_args": args, "extra_argv": tuple(argv)} if engine else {}


def _said(ranks: Sequence[Rank], engine: Engine | None) -> set[str]:
    """The flags that these ranks set, in the engine's words or as unified arguments."""
    said = {dest for rank in ranks for dest in rank.words.givens}
    if engine:
        names = {name for rank in ranks for name in rank.givens if name in engine.by_setting}
        said |= {engine.flag_of(name).dest for name in names}
    return said
