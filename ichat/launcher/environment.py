"""The environment that a child of the launcher gets: what it needs, and no secret of ichat's own."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from ichat.backends import engines
from ichat.config.schema import Model
from ichat.errors import ConfigError, Problem

_OURS = "ICHAT_"
#: Secrets that only a worker may see: it downloads the model.
_WORKERS_ONLY = ("HF_TOKEN", "HF_TOKEN_FILE", "HUGGING_FACE_HUB_TOKEN")
_DEVICES = ("/dev/nvidiactl", "/dev/dxg")


def accelerator_of(model: Model) -> Literal["cpu", "cuda"]:
    """``auto`` is cuda where an NVIDIA device is visible."""
    if model.accelerator != "auto":
        return model.accelerator
    return "cuda" if any(Path(device).exists() for device in _DEVICES) else "cpu"


def python_of(model: Model) -> str:
    """The interpreter of the engine's own environment, which stands beside the launcher's."""
    if model.backend == "fake":
        return sys.executable
    python = Path(sys.prefix).parent / model.backend / "bin" / "python"
    if not python.exists():
        what = f"the environment of {model.backend} is missing ({python}). Run `make setup`."
        raise ConfigError([Problem("E-ENV-MISSING", f"models.{model.name}.backend:", what)])
    return str(python)


def for_front(inherited: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in _plain(inherited).items() if name not in _WORKERS_ONLY}


def for_worker(inherited: Mapping[str, str], model: Model, tmp_dir: str) -> dict[str, str]:
    """What the user has set goes before what ichat or the engine would set; the model's own ``env`` goes before both.

    The temporary directory is not for anybody to choose: it is removed with the worker.
    """
    accelerator = accelerator_of(model)
    ours = {}
    if accelerator == "cpu":
        # One core is left for the event loops: the threads of OpenMP spin while they wait.
        ours["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) - 1))
    fixed = {"TMPDIR": tmp_dir, "VLLM_RPC_BASE_PATH": tmp_dir, "ICHAT_PDEATHSIG": "1"}
    return engines.worker_environment(ours | _plain(inherited), model, accelerator) | fixed


def _plain(inherited: Mapping[str, str]) -> dict[str, str]:
    """ichat's own settings reach its children as messages, never as environment: they may hold secrets."""
    return {name: value for name, value in inherited.items() if not name.startswith(_OURS)}
