"""`ichat warm --arch sm_90`: fill the caches as far as that goes without the device, as when an image is built."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ichat.backends.engines import ARGS
from ichat.config.resolve import Resolved
from ichat.config.schema import Model
from ichat.errors import UsageError
from ichat.launcher import environment

_ARCH = re.compile(r"(?:sm_?)?(\d{1,2})\.?(\d)a?", re.IGNORECASE)
#: What only an engine on the device knows how to compile.
_NEEDS_DEVICE = "Triton, torch.compile, DeepGEMM and CUDA graphs: need the device; run `ichat warm` there"


@dataclass(frozen=True)
class Item:
    """One thing that was tried."""

    engine: str
    title: str
    is_done: bool
    words: str
    took_s: float


def read_arch(text: str) -> str:
    """`sm_90`, `sm90`, `9.0` → `9.0`."""
    found = _ARCH.fullmatch(text)
    if found is None:
        raise UsageError(f'--arch: "{text}" is no CUDA architecture. Write it as sm_80, sm_90, sm_100 or 9.0.')
    return f"{found[1]}.{found[2]}"


def models_of(resolved: Resolved) -> list[Model]:
    """Those that are configured; where nobody has chosen an engine, the one for every engine that is installed."""
    models = list(resolved.settings.models)
    if len(models) > 1 or f"models.{models[0].name}.backend" in resolved.origins:
        return models
    every = [models[0].model_copy(update={"backend": engine}) for engine in ARGS]
    return [model for model in every if environment.is_installed(model)]


def warm_without_device(models: Sequence[Model], arch: str, environ: Mapping[str, str]) -> Iterator[Item]:
    """Each item as soon as it is over. Each engine once, for all its models."""
    for engine in dict.fromkeys(model.backend for model in models if model.backend in ARGS):
        theirs = [model.model_copy(update={"accelerator": "cuda"}) for model in models if model.backend == engine]
        yield from _of_engine(engine, theirs, arch, environ)


def render(item: Item) -> str:
    """For a person."""
    return f"{item.engine}: {item.title}: {'done' if item.is_done else 'not done'} in {item.took_s:.0f} s: {item.words}"


def render_end(items: Sequence[Item]) -> str:
    done = sum(item.is_done for item in items)
    return f"warm: {done} of {len(items)} done. {_NEEDS_DEVICE}"


def _of_engine(engine: str, models: Sequence[Model], arch: str, environ: Mapping[str, str]) -> Iterator[Item]:
    kernels = {kernel for model in models for kernel in ARGS[engine].hub_kernels(model, "cuda")}
    command = [environment.python_of(models[0]), "-P", "-m", "ichat.worker.warm", engine, arch]
    command += [f"--kernel={kernel.repo}@{kernel.revision}" for kernel in sorted(kernels, key=str)]
    command += [f"--head-dim={size}" for model in models if (size := _head_dim(model)) is not None]
    env = environment.for_worker(environ, models[0], "/tmp")  # noqa: S108  for compilers; nothing stays there
    with subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith('{"item"'):
                told: dict[str, Any] = json.loads(line)
                yield Item(engine, told["item"], told["is_done"], told["words"], told["took_s"])
    if process.returncode:
        yield Item(engine, "its Python", is_done=False, words=f"ended with code {process.returncode}", took_s=0)


def _head_dim(model: Model) -> int | None:
    """Of a local model's attention, by its config.json."""
    if not model.model_path.startswith("/"):
        return None
    try:
        config = json.loads(Path(model.model_path, "config.json").read_bytes())
        config = config.get("text_config", config)
        return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
