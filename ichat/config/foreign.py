"""Variables of others: those that an engine reads by itself, and those that other images serve a model by."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from ichat.config.engine import Engine
from ichat.config.schema import Model
from ichat.config.values import Given, Layer
from ichat.errors import Problem

#: What the engines and their libraries read: an empty one counts as not set, as ichat's own does.
_ENGINES_OWN = re.compile(r"(VLLM|SGLANG|SGL|FLASHINFER|TORCH|TORCHINDUCTOR|TRITON|NCCL|CUDA|OMP|HF|TRANSFORMERS)_")
#: Kubernetes makes such a variable of a Service that is called like the engine: VLLM_PORT=tcp://10.0.0.1:80.
_SERVICE_LINK = re.compile(r"(tcp|udp|sctp)://")
#: Empty, these have a meaning: no GPU, no plugin.
_MEANT_EMPTY = ("CUDA_VISIBLE_DEVICES", "VLLM_PLUGINS", "SGLANG_PLUGINS")
#: Name the model, or its port, in other images.
_OF_OTHER_IMAGES = ("MODEL", "MODEL_NAME", "MODEL_PATH", "MODEL_DIR", "MAX_MODEL_LEN", "NUM_SHARD", "PORT")


def is_for_engine(name: str, text: str) -> bool:
    """Whether a worker may see the variable: not one that is empty, or that Kubernetes made of a Service."""
    if not _ENGINES_OWN.match(name) or name in _MEANT_EMPTY:
        return True
    return bool(text) and not _SERVICE_LINK.match(text)


def reserved_variables(
    models: Sequence[Model], engines: Mapping[str, Engine], environ: Mapping[str, str]
) -> Iterator[Problem]:
    """A problem for each variable, of ours or in a model's ``env``, that does in the engine what is ichat's."""
    for model in models:
        for name, why in engines[model.backend].reserved_variables.items() if model.backend in engines else ():
            if model.env.get(name):
                place, layer = f"models.{model.name}.env.{name}", Layer.FILE
            elif environ.get(name) and is_for_engine(name, environ[name]):
                place, layer = name, Layer.ENVIRONMENT
            else:
                continue
            yield Given("", f"{place}:" if layer is Layer.FILE else place, layer).problem(
                f"is not for use here: {why}.", "E-CFG-RESERVED"
            )


def unread_variables(environ: Mapping[str, str]) -> Iterator[str]:
    """One notice for variables by which other images serve a model; for where nothing else names one."""
    names = [name for name in _OF_OTHER_IMAGES if environ.get(name)]
    if names:
        yield (
            f"{', '.join(names)}: not read by ichat, and nothing else names a model, so the demo model is served. "
            "Name yours by ICHAT_MODEL_PATH (docs/configuration.md)"
        )
