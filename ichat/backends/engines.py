"""Both engines as the resolver sees them, and the command line and environment of a worker's engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from ichat.backends import sglang_args, sglang_compat, sglang_extras, vllm_args, vllm_compat, vllm_extras
from ichat.backends.extras import missing_extras
from ichat.backends.remote_code import missing_packages, problem_of
from ichat.config.engine import Engine
from ichat.config.schema import Model
from ichat.errors import ConfigError, Problem

ARGS = {"vllm": vllm_args, "sglang": sglang_args}
SUPPORTED = {"vllm": vllm_compat.SUPPORTED, "sglang": sglang_compat.SUPPORTED}
_NEEDS = {"vllm": vllm_extras.NEEDS, "sglang": sglang_extras.NEEDS}


def load_engines(versions: Mapping[str, str | None] | None = None) -> dict[str, Engine]:
    """By name of the backend, in these versions; in the pinned one without a word. No engine is imported.

    The scripted backend has no command line, hence no entry.
    """
    asked = versions or {}
    return {name: args.engine(asked.get(name)) for name, args in ARGS.items()}


def installed_versions() -> dict[str, str | None]:
    """By name of the backend: what is in the environments beside this one, None where there is none."""
    return {name: supported.installed() for name, supported in SUPPORTED.items()}


def refuse_missing_extras(models: Sequence[Model], environments: Path, origins: Mapping[str, str]) -> None:
    """ConfigError for settings that need a package which an engine's environment below ``environments`` lacks."""
    problems: list[Problem] = []
    for model in models:
        if (args := ARGS.get(model.backend)) is not None:
            home = environments / model.backend
            problems += missing_extras(args.engine(), _NEEDS[model.backend], model, home, origins)
    if problems:
        raise ConfigError(problems)


def refuse_missing_packages(
    models: Sequence[Model], environments: Path, origins: Mapping[str, str], environ: Mapping[str, str]
) -> None:
    """ConfigError for local models whose own Python code needs packages that an engine's environment lacks."""
    problems: list[Problem] = []
    for model in models:
        if packages := missing_packages(model, environments / model.backend, environ):
            problems.append(problem_of(model, packages, origins.get(f"models.{model.name}.model_path", "")))
    if problems:
        raise ConfigError(problems)


def worker_environment(
    inherited: Mapping[str, str], model: Model, accelerator: Literal["cpu", "cuda"]
) -> dict[str, str]:
    """The whole environment of a worker: what its engine needs, under what it inherits, under what the model sets.

    ``inherited`` is ``Sources.worker_environment()``.
    """
    args = ARGS.get(model.backend)
    needed = args.environment(model, accelerator) if args else {}
    return needed | dict(inherited) | model.env
