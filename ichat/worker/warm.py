"""``python -m ichat.worker.warm ENGINE ARCH …`` in an engine's Python: what can be made or fetched without its device.

Started by `ichat warm --arch` only. Each item ends in one line of JSON on stdout: what it was, whether it is there now,
and in words why not. One that fails ends no other.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import re
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from ichat.backends import start_method
from ichat.config.sources import process_environment

#: FlashInfer's modules (0.6, 0.7) that the engines load whatever the model: where each is described.
_MODULES = {
    "vllm": (("page", "page", "gen_page_module"), ("sampling", "sampling", "gen_sampling_module")),
    "sglang": (
        ("page", "page", "gen_page_module"),
        ("norm", "norm", "gen_norm_module"),
        ("rope", "rope", "gen_rope_module"),
        ("sampling", "sampling", "gen_sampling_module"),  # the longest: minutes
    ),
}
#: Of older devices the engines leave attention to FlashInfer; newer ones have kernels of their own, or cubins.
_BEFORE_HOPPER = 9
_IS_CAUSE = re.compile(r"\berror:|cannot find ", re.IGNORECASE)


def main() -> None:
    start_method.die_with_parent(os.getppid())
    parser = argparse.ArgumentParser(prog="ichat.worker.warm")
    parser.add_argument("engine", choices=sorted(_MODULES))
    parser.add_argument("arch", help="9.0, 10.0 …")
    parser.add_argument("--kernel", action="append", default=[], help="repository@revision of the hub")
    parser.add_argument("--head-dim", action="append", type=int, default=[], help="of a model's attention")
    given = parser.parse_args()
    # FlashInfer reads it when it is imported.
    process_environment()["FLASHINFER_CUDA_ARCH_LIST"] = given.arch
    for kernel in given.kernel:
        _try(f"kernel {kernel}", partial(_fetch_kernel, kernel))
    _try("FlashInfer's cubins", _fetch_cubins)
    for title, module, function in _MODULES[given.engine]:
        _try(f"FlashInfer: {title}", partial(_build, module, function))
    if given.engine == "sglang" and int(given.arch.partition(".")[0]) < _BEFORE_HOPPER:
        for head_dim in sorted(set(given.head_dim)):
            _try(f"FlashInfer: attention, heads of {head_dim}", partial(_build_attention, head_dim))
    sys.stdout.flush()
    os._exit(0)  # libraries of CUDA leave threads that would hang


def _try(item: str, work: Callable[[], str]) -> None:
    began = time.monotonic()
    try:
        words, is_done = work(), True
    except Exception as error:  # noqa: BLE001  told, and the next item is tried
        words, is_done = f"{type(error).__name__}: {_cause(str(error))[:200]}", False
    told = {"item": item, "is_done": is_done, "words": words, "took_s": round(time.monotonic() - began, 1)}
    sys.stdout.write(f"\n{json.dumps(told)}\n")
    sys.stdout.flush()


def _cause(text: str) -> str:
    """The line that tells most: of a build the first that a compiler or linker ended with, else the last."""
    lines = text.strip().splitlines() or [""]
    return next((line for line in lines if _IS_CAUSE.search(line)), lines[-1])


def _fetch_kernel(named: str) -> str:
    repository, _, revision = named.partition("@")
    kernels: Any = importlib.import_module("kernels.utils")
    return str(kernels.install_kernel(repository, revision=revision))


def _fetch_cubins() -> str:
    """All that the installed version may load; those that are there already are not fetched again."""
    if importlib.util.find_spec("flashinfer_cubin") is not None:
        return "in the environment: flashinfer-cubin"
    artifacts: Any = importlib.import_module("flashinfer.artifacts")
    artifacts.download_artifacts()
    return str(importlib.import_module("flashinfer.jit.env").FLASHINFER_CUBIN_DIR)


def _build(module: str, function: str) -> str:
    spec: Any = getattr(importlib.import_module(f"flashinfer.jit.{module}"), function)()
    spec.build(need_lock=True)
    return str(spec.jit_library_path)


def _build_attention(head_dim: int) -> str:
    torch: Any = importlib.import_module("torch")
    aot: Any = importlib.import_module("flashinfer.aot")
    kind = torch.bfloat16
    specs = aot.gen_fa2(kind, kind, head_dim, head_dim, False, False)
    wanted = [spec for spec in specs if spec.name.startswith(("batch_prefill", "batch_decode"))]
    for spec in wanted:
        spec.build(need_lock=True)
    return ", ".join(str(spec.jit_library_path) for spec in wanted)


if __name__ == "__main__":
    main()
