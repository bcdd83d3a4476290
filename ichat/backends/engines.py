"""Both engines as the resolver sees them, and the command line and environment of a worker's engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from ichat.backends import sglang_args, vllm_args
from ichat.config.engine import Engine
from ichat.config.schema import Model

ARGS = {"vllm": vllm_args, "sglang": sglang_args}


def load_engines() -> dict[str, Engine]:
    """By name of the backend. No engine is imported. The scripted backend has no command line, hence no entry."""
    return {name: args.engine() for name, args in ARGS.items()}


def worker_environment(
    inherited: Mapping[str, str], model: Model, accelerator: Literal["cpu", "cuda"]
) -> dict[str, str]:
    """The whole environment of a worker: what its engine needs, under what it inherits, under what the model sets.

    ``inherited`` is ``Sources.worker_environment()``.
    """
    args = ARGS.get(model.backend)
    needed = args.environment(model, accelerator) if args else {}
    return needed | dict(inherited) | model.env
