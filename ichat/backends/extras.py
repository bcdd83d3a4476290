"""Packages that an engine needs for some of its settings only, and that an image has only when it is built with them.

Asked is the engine's environment on the disk: nothing is imported, and a package that somebody has added counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ichat.backends.engine_argv import own_words
from ichat.config.engine import Engine
from ichat.config.flags import Argument
from ichat.config.schema import Model
from ichat.errors import Problem

#: Written by the build into the root of an environment: the names of the extras in it, one a line.
_FILE = "extras"


@dataclass(frozen=True)
class Extra:
    """``name`` is the word for the build argument EXTRAS; ``module`` is what the engine imports."""

    name: str
    title: str
    module: str


NIXL = Extra("nixl", "NIXL", "nixl")
MOONCAKE = Extra("mooncake", "Mooncake", "mooncake")
LMCACHE = Extra("lmcache", "LMCache", "lmcache")
DEEP_EP = Extra("deep-ep", "DeepEP", "deep_ep")


@dataclass(frozen=True)
class Need:
    """A flag whose value (found by ``pattern``) needs an extra; not where ``unless`` is given too, which says more."""

    dest: str
    pattern: str
    extra: Extra
    unless: str = ""


def missing_extras(
    engine: Engine, needs: Sequence[Need], model: Model, environment: Path, origins: Mapping[str, str]
) -> Iterator[Problem]:
    """Each setting of the model that needs a package which its engine's environment lacks."""
    if not environment.is_dir():
        return  # told where it is looked for
    said = _by_dest(engine.catalogue.split(own_words(engine, model)))
    for need in needs:
        words = said.get(need.dest, [])
        if need.unless in said or not any(re.search(need.pattern, _text(word)) for word in words):
            continue
        if not _has(environment, need.extra):
            flag = words[0].flag
            assert flag is not None
            yield Problem("E-CFG-EXTRA", f"{_place(model, flag.key, origins)}:", _words(engine, flag.word, need.extra))


def _words(engine: Engine, flag: str, extra: Extra) -> str:
    return (
        f"{flag} needs {extra.title}, which {engine.title}'s environment here lacks. Build the image with it: "
        f'make image EXTRAS="{extra.name}"; or add it: docs/from-ichat.md.'
    )


def _by_dest(arguments: Iterator[Argument]) -> dict[str, list[Argument]]:
    found: dict[str, list[Argument]] = {}
    for argument in arguments:
        if argument.flag is not None and not argument.is_negated:
            found.setdefault(argument.flag.dest, []).append(argument)
    return found


def _text(argument: Argument) -> str:
    return " ".join((argument.word, *argument.values)) if argument.values else "true"


def _has(environment: Path, extra: Extra) -> bool:
    try:
        named = (environment / _FILE).read_text().split()
    except OSError:
        named = []
    found = (environment.glob(f"lib/python3*/site-packages/{extra.module}{suffix}") for suffix in ("", ".py", ".*.so"))
    return extra.name in named or any(next(each, None) is not None for each in found)


def _place(model: Model, key: str, origins: Mapping[str, str]) -> str:
    """Where the flag was given, else the model's name."""
    names = (
        f"models.{model.name}.{part}" for part in (f"engine_args.{key}", f"extra_argv.{key}", f"{model.backend}_args")
    )
    return next((origins[name] for name in names if name in origins), f"models.{model.name}")
