"""Where engines and their compilers keep what they have made or fetched, so that the next start need not."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ichat.backends.hub_cache import cache_dir


@dataclass(frozen=True)
class Size:
    files: int
    bytes: int

    def __sub__(self, before: Size) -> Size:
        return Size(self.files - before.files, self.bytes - before.bytes)


#: Title, the variable that names the directory, and where it is without one: below HOME, or below the user's cache.
_PLACES = (
    ("vLLM", "VLLM_CACHE_ROOT", "{cache}/vllm"),
    ("SGLang", "SGLANG_CACHE_DIR", "{home}/.cache/sglang"),
    ("torch.compile", "TORCHINDUCTOR_CACHE_DIR", "{cache}/torchinductor"),
    ("Triton", "TRITON_CACHE_DIR", "{home}/.triton/cache"),
    ("FlashInfer", "FLASHINFER_WORKSPACE_BASE", "{home}/.cache/flashinfer"),
    ("FlashInfer's cubins", "FLASHINFER_CUBIN_DIR", ""),
    ("DeepGEMM", "DG_JIT_CACHE_DIR", "{home}/.deep_gemm"),
    ("DeepGEMM (SGLang)", "SGLANG_DG_CACHE_DIR", ""),
    ("TileLang", "TILELANG_CACHE_DIR", "{home}/.tilelang/cache"),
    ("TVM FFI", "TVM_FFI_CACHE_DIR", "{home}/.cache/tvm-ffi"),
    ("torch extensions", "TORCH_EXTENSIONS_DIR", "{cache}/torch_extensions"),
    ("CUDA driver", "CUDA_CACHE_PATH", "{home}/.nv/ComputeCache"),
)


def caches(environ: Mapping[str, str]) -> dict[str, Path]:
    """The directories by title, for a worker with this environment; each directory once."""
    home = environ.get("HOME") or "/"
    base = environ.get("XDG_CACHE_HOME") or f"{home}/.cache"
    found: dict[str, Path] = {}
    for title, variable, default in _PLACES:
        named = environ.get(variable)
        if variable == "FLASHINFER_WORKSPACE_BASE" and named:
            named = f"{named}/.cache/flashinfer"
        path = Path(named or default.format(home=home, cache=base))
        if (named or default) and path not in found.values():
            found[title] = path
    return found | {"hub": cache_dir(environ)}


def below(directory: str) -> dict[str, str]:
    """The variables that put every cache below one directory, under the names that the image uses."""
    return {
        "HOME": directory,
        "XDG_CACHE_HOME": directory,
        "HF_HOME": f"{directory}/huggingface",
        "VLLM_CACHE_ROOT": f"{directory}/vllm",
        "TRITON_CACHE_DIR": f"{directory}/triton",
        "TORCHINDUCTOR_CACHE_DIR": f"{directory}/torchinductor",
        "FLASHINFER_WORKSPACE_BASE": f"{directory}/flashinfer",
        "DG_JIT_CACHE_DIR": f"{directory}/deep_gemm",
        "SGLANG_DG_CACHE_DIR": f"{directory}/deep_gemm",
        "TILELANG_CACHE_DIR": f"{directory}/tilelang",
        "CUDA_CACHE_PATH": f"{directory}/nv",
    }


def size_of(directory: Path) -> Size:
    """Every file below a directory, links not followed; nothing where there is none."""
    files = total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                status = os.lstat(f"{folder}/{name}")
            except OSError:
                continue
            files, total = files + 1, total + status.st_size
    return Size(files, total)


def compile_cache(environ: Mapping[str, str]) -> str | None:
    """Where torch.compile's cache outlives its worker, whose TMPDIR torch would take; None: nowhere can be written."""
    home = environ.get("HOME")
    base = environ.get("XDG_CACHE_HOME") or (f"{home}/.cache" if home else None)
    if base is None:
        return None
    path = Path(base) / "torchinductor"
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    return str(path) if there.is_dir() and os.access(there, os.W_OK | os.X_OK) else None
