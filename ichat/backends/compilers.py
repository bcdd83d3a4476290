"""The compilers that an engine starts: what tells that a first start compiles kernels, and how far it is.

Both engines compile by programs of their own: ninja and nvcc (FlashInfer, SGLang, DeepGEMM), ptxas (Triton), g++
(torch.compile on a CPU). They are seen among the engine's processes; nothing of an engine is asked or patched. What is
compiled inside a process (torch.compile's own work, NVRTC) is not seen.
"""

from __future__ import annotations

#: One of these makes one thing: counted, unless another compiler has started it (nvcc runs cicc, ptxas and g++).
_COMPILERS = frozenset(
    {"nvcc", "cicc", "ptxas", "cudafe++", "fatbinary", "nvlink", "tileiras", "g++", "gcc", "c++", "cc", "cc1plus",
     "cc1", "clang", "clang++", "as", "ld", "collect2"}
)  # fmt: skip
#: Drive compilers, and make nothing themselves.
_DRIVERS = frozenset({"ninja"})


def is_compiler(title: str) -> bool:
    """By the first word of a command line."""
    return _program(title) in _COMPILERS


def is_at_work(title: str) -> bool:
    """Whether a process with this command line says that something is being compiled."""
    return _program(title) in _COMPILERS | _DRIVERS


def _program(title: str) -> str:
    name = title.partition(" ")[0].rpartition("/")[2]
    # x86_64-linux-gnu-g++-12
    plain = name.removeprefix("x86_64-linux-gnu-")
    return plain.rstrip("0123456789").rstrip("-") if plain not in _COMPILERS else plain
