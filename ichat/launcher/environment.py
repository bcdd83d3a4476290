"""The environment that a child of the launcher gets: what it needs, and no secret of ichat's own."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from ichat.backends import engines
from ichat.backends.caches import compile_cache
from ichat.config.schema import Model
from ichat.config.sources import is_handed_down
from ichat.errors import ConfigError, Problem
from ichat.launcher.host import must_do_without_workers, sees_nvidia_device

SYSTEM_LIBRARIES = Path("/usr/lib")
_OPENSSL_CONF = Path(__file__).parents[1] / "front" / "openssl.cnf"
#: Secrets that only a worker may see: it downloads the model.
_WORKERS_ONLY = ("HF_TOKEN", "HF_TOKEN_FILE", "HUGGING_FACE_HUB_TOKEN")

#: multiprocessing's resource tracker calls leaked what a killed engine held; worker and launcher free it.
_QUIET_TRACKER = "ignore:resource_tracker:UserWarning"


def accelerator_of(model: Model) -> Literal["cpu", "cuda"]:
    """``auto`` is cuda where an NVIDIA device is visible."""
    if model.accelerator != "auto":
        return model.accelerator
    return "cuda" if sees_nvidia_device() else "cpu"


def python_of(model: Model) -> str:
    """The interpreter of the engine's own environment, which stands beside the launcher's."""
    if model.backend == "fake":
        return sys.executable
    python = Path(sys.prefix).parent / model.backend / "bin" / "python"
    if not python.exists():
        way_out = "Run `make setup`, or build the image with it (ENGINES)."
        what = f"the environment of {model.backend} is missing ({python}). {way_out}"
        raise ConfigError([Problem("E-ENV-MISSING", f"models.{model.name}.backend:", what)])
    engines.SUPPORTED[model.backend].check_installed(f"models.{model.name}.backend", python.parents[1])
    return str(python)


def is_installed(model: Model) -> bool:
    """Whether there is an environment of its engine."""
    try:
        python_of(model)
    except ConfigError:
        return False
    return True


def for_front(inherited: Mapping[str, str]) -> dict[str, str]:
    """OpenSSL is set up by ichat's own file, unless the user has one."""
    plain = {name: value for name, value in _plain(inherited).items() if name not in _WORKERS_ONLY}
    return {"OPENSSL_CONF": str(_OPENSSL_CONF)} | plain


def for_worker(inherited: Mapping[str, str], model: Model, tmp_dir: str, gpus: Sequence[str] = ()) -> dict[str, str]:
    """``gpus`` are the only ones that it shall see; none given: those that we see.

    What the user has set goes before what ichat or the engine would set; the model's own ``env`` goes before both.

    The temporary directory is not for anybody to choose: it is removed with the worker.
    """
    accelerator = accelerator_of(model)
    home = Path(sys.prefix).parent / model.backend
    ours = {"PYTHONWARNINGS": _QUIET_TRACKER} | (_compiler(home) if accelerator == "cuda" else {})
    if (cache := compile_cache({**inherited, **model.env})) is not None:
        ours["TORCHINDUCTOR_CACHE_DIR"] = cache
    if accelerator == "cpu":
        # One core is left for the event loops: the threads of OpenMP spin while they wait.
        ours["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) - 1))
        ours |= _preloaded() if model.backend == "sglang" else {}
    if model.backend == "sglang" and (model.nnodes or 1) * (model.data_parallel_size or 1) == 1:
        # SGLang's processes would find each other at a TCP port that torch opens on every address. (Its data-parallel
        # copies are groups of their own, which one file cannot serve.)
        ours["SGLANG_DISTRIBUTED_INIT_METHOD_OVERRIDE"] = f"file://{tmp_dir}/rendezvous"
    if must_do_without_workers(model, accelerator):
        ours["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    if gpus:
        ours["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        inherited = {name: value for name, value in inherited.items() if name != "CUDA_VISIBLE_DEVICES"}
    fixed = {"TMPDIR": tmp_dir, "VLLM_RPC_BASE_PATH": tmp_dir, "ICHAT_PDEATHSIG": "1"}
    env = engines.worker_environment(ours | _plain(inherited), model, accelerator) | fixed
    # Programs that came with the engine, such as the ninja by which it builds kernels.
    env["PATH"] = f"{home / 'bin'}:{env.get('PATH', os.defpath)}"
    return env


def _compiler(home: Path) -> dict[str, str]:
    """nvcc of the CUDA that torch is built for comes with the engine, which would look for it elsewhere."""
    found = sorted(home.glob("lib/python3*/site-packages/nvidia/cu*/bin/nvcc"))
    return {"CUDA_HOME": str(found[-1].parents[1])} if found else {}


def _preloaded() -> dict[str, str]:
    """tcmalloc, where the image or the machine has it. On a CPU it saves SGLang a sixth of a small model's CPU time.

    It costs vLLM a quarter (docs/decisions.md), so that one keeps the C library's.
    """
    found = sorted(SYSTEM_LIBRARIES.glob("*/libtcmalloc_minimal.so.4"))
    return {"LD_PRELOAD": str(found[0])} if found else {}


def _plain(inherited: Mapping[str, str]) -> dict[str, str]:
    """ichat's own settings reach its children as messages, never as environment: they may hold secrets."""
    return {name: value for name, value in inherited.items() if is_handed_down(name)}
