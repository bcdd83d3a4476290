"""Compose an engine's command line: ichat's defaults, unified arguments, engine_args, verbatim words."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ichat.config.engine import Engine, Word
from ichat.config.flags import Catalogue, Flag, WrongValueError
from ichat.config.schema import Model

#: Processes of one node talk to each other over the loopback interface only: what they open has no authentication.
ON_ONE_NODE = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}


@dataclass(frozen=True)
class HubKernel:
    """A compiled kernel that an engine takes from the hub (the package ``kernels``)."""

    repo: str
    revision: str


def compose(engine: Engine, model: Model, defaults: Iterable[str]) -> list[str]:
    """The whole command line, each flag once.

    What the user wrote in the engine's own words stands as written; ``defaults`` and unified arguments give way
    to it. (The resolver has already refused a unified argument that contradicts them.)
    """
    own, taken = own_words(engine, model), own_dests(engine, model)
    made = [*defaults, *unified_argv(engine, model)]
    kept = [
        token
        for argument in engine.catalogue.split(made)
        if argument.flag is not None and argument.flag.dest not in taken
        for token in argument.tokens
    ]
    return [*_latest(engine.catalogue, kept), *own]


def own_words(engine: Engine, model: Model) -> list[str]:
    """What the user said in the engine's own words."""
    verbatim = model.extra_argv if model.backend == engine.name else ()
    return [*to_words(engine, own_args(engine, model)), *verbatim]


def own_args(engine: Engine, model: Model) -> dict[str, Any]:
    """The flags that YAML gives this engine: ``engine_args`` belongs to the model's backend, the others to theirs."""
    args = dict(model.engine_args) if model.backend == engine.name else {}
    return args | (model.vllm_args if engine.name == "vllm" else model.sglang_args)


def to_words(engine: Engine, args: dict[str, Any]) -> list[str]:
    """A mapping of flags to values as words of the command line; null leaves the engine's default."""
    words: list[str] = []
    for key, value in args.items():
        flag = engine.catalogue.find(f"--{key}")
        if flag is None:
            raise WrongValueError(f"{key}: {engine.version} has no such flag")
        if value is not None:
            words += flag.to_argv(value)
    return words


def own_dests(engine: Engine, model: Model) -> set[str]:
    """What the user set in the engine's own words; a switch that is false has no word, and is set all the same."""
    words = [*own_words(engine, model), *(f"--{key}" for key in own_args(engine, model))]
    return {argument.flag.dest for argument in engine.catalogue.split(words) if argument.flag is not None}


def unified_argv(engine: Engine, model: Model) -> list[str]:
    """The unified arguments of a model in one engine's words, in the order of the table."""
    argv: list[str] = []
    for word in engine.words:
        flag = engine.catalogue.by_spelling[word.flag]
        value = _names(flag, model) if word.setting == "served_model_name" else getattr(model, word.setting)
        if value is not None:
            argv += say(flag, word, value, model)
    return argv


def _names(flag: Flag, model: Model) -> str | tuple[str, ...]:
    """vLLM answers to the names that it was told; SGLang has one name and does not compare it with a request's."""
    return (model.served_name, *model.aliases) if flag.kind == "values" and model.aliases else model.served_name


def say(flag: Flag, word: Word, value: Any, model: Model) -> list[str]:
    """One unified argument in the engine's words."""
    converted = word.convert(value) if word.convert else value
    if converted is None:
        return []
    if isinstance(converted, tuple):
        converted = list(converted)
    return [*flag.to_argv(converted), *(word.adds(value, model) if word.adds else [])]


def is_local(model: Model) -> bool:
    """Whether nothing of a model comes from the hub. The resolver makes every local path absolute."""
    paths = [model.model_path, model.tokenizer_path or "/", *(p.partition("=")[2] for p in model.lora_paths or ())]
    return all(path.startswith("/") for path in paths)


def to_json(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _latest(catalogue: Catalogue, words: list[str]) -> list[str]:
    """The last word on each flag wins (a unified argument over a default of ichat)."""
    last = {a.flag.dest if a.flag else a.word: a.tokens for a in catalogue.split(words)}
    return [token for tokens in last.values() for token in tokens]
