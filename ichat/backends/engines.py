"""Both engines as the resolver sees them, and the command line and environment of a worker's engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from ichat.backends import sglang_args, sglang_compat, vllm_args, vllm_compat
from ichat.config.engine import Engine
from ichat.config.schema import Model

ARGS = {"vllm": vllm_args, "sglang": sglang_args}
SUPPORTED = {"vllm": vllm_compat.SUPPORTED, "sglang": sglang_compat.SUPPORTED}


def load_engines(versions: Mapping[str, str | None] | None = None) -> dict[str, Engine]:
    """By name of the backend, in these versions; in the pinned one without a word. No engine is imported.

    The scripted backend has no command line, hence no entry.
    """
    asked = versions or {}
    return {name: args.engine(asked.get(name)) for name, args in ARGS.items()}


def installed_versions() -> dict[str, str | None]:
    """By name of the backend: what is in the environments beside this one, None where there is none."""
    return {name: supported.installed() for name, supported in SUPPORTED.items()}


def worker_environment(
    inherited: Mapping[str, str], model: Model, accelerator: Literal["cpu", "cuda"]
) -> dict[str, str]:
    """The whole environment of a worker: what its engine needs, under what it inherits, under what the model sets.

    ``inherited`` is ``Sources.worker_environment()``.
    """
    args = ARGS.get(model.backend)
    needed = args.environment(model, accelerator) if args else {}
    return needed | dict(inherited) | model.env
