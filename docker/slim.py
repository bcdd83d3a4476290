#!/usr/bin/python3
"""Build step: slim.py ENVIRONMENT… makes environments smaller, and changes nothing that an engine could see.

What is never loaded goes, and equal files become one file with several names, which a layer stores once.
"""

import hashlib
import importlib.util
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

PACKAGES = "lib/python3*/site-packages"

#: Pattern below an environment's packages → why nothing misses it.
NEVER_LOADED = {
    "nvidia/cu13/lib/libcusolverMg.so*": "solvers on several GPUs: no engine is linked to it or names it",
    "nvidia/cu13/lib/libnvrtc*.alt.so*": "a second build of the run-time compiler: all of them are linked to the first",
    "triton/backends/nvidia/lib/cupti/*.a": "for building Triton's profiler, not for running it",
    "cuda/core/cu12": "for CUDA 12: its package chooses by the major version of cuda-bindings",
    "nccl/*/lib/cu12": "for CUDA 12: the same",
    "torch/bin/protoc*": "for building torch",
    "numpy/**/tests": "numpy's own tests",
    "pandas/tests": "pandas's own tests",
    "pyarrow/tests": "pyarrow's own tests",
    "scipy/**/tests": "scipy's own tests",
    "sympy/**/tests": "sympy's own tests",
    "networkx/**/tests": "networkx's own tests",
    "mpmath/tests": "mpmath's own tests",
}
#: The same where no NVIDIA library is.
ONLY_FOR_GPUS = {
    "triton/backends/nvidia/bin/*": "assembler and disassemblers of GPU code: nothing is compiled for a GPU",
    "triton/backends/nvidia/lib/cupti/*": "the profiler of GPUs",
}
#: The same, below the environment itself.
NEVER_LINKED = {
    "lib/libiomp5.a": "OpenMP for linking into a program",
    "lib/libiomp5.dbg": "its debugging symbols",
    "lib/libiomp5_db.so": "for a debugger",
}


def main(*environments: Path) -> None:
    before = size_bytes(environments)
    for environment in environments:
        remove(environment, NEVER_LINKED)
        for packages in environment.glob(PACKAGES):
            remove(packages, NEVER_LOADED if (packages / "nvidia").exists() else NEVER_LOADED | ONLY_FOR_GPUS)
    removed = size_bytes(environments)
    link_equal_files(environments)
    linked = size_bytes(environments)
    print(
        f"{' '.join(path.name for path in environments)}: {before / 1e9:.2f} GB; {(before - removed) / 1e6:.0f} MB are "
        f"never loaded, {(removed - linked) / 1e6:.0f} MB were there twice: {linked / 1e9:.2f} GB remain"
    )


def size_bytes(roots: Iterable[Path]) -> int:
    """Size of all files, each counted once whatever names it has."""
    return sum({found.st_ino: found.st_size for found in (path.stat() for path in files(roots))}.values())


def files(roots: Iterable[Path]) -> Iterator[Path]:
    for root in roots:
        for folder, _, names in os.walk(root):
            yield from (path for name in names if not (path := Path(folder, name)).is_symlink())


def remove(root: Path, patterns: dict[str, str]) -> None:
    for pattern in patterns:
        for path in sorted(root.glob(pattern), reverse=True):
            for inner in [*files([path])] if path.is_dir() and not path.is_symlink() else [path]:
                inner.unlink()


def link_equal_files(roots: Iterable[Path]) -> None:
    """Equal contents and modes become one file; a source's bytecode goes with it, since it tells its source's time."""
    for paths in equal_files(roots):
        # The name that stays is one with bytecode: a package of type stubs has none.
        first, *others = sorted(paths, key=lambda path: not bytecode_of(path).exists())
        for other in others:
            replace_by_link(other, first)
            if bytecode_of(other).exists():
                replace_by_link(bytecode_of(other), bytecode_of(first))


def bytecode_of(path: Path) -> Path:
    """Where Python keeps what it has compiled; a place without a file for what is no source."""
    return Path(importlib.util.cache_from_source(path)) if path.suffix == ".py" else path / "none"


def equal_files(roots: Iterable[Path]) -> Iterator[list[Path]]:
    """Names of the same contents, those that are one file already included; bytecode left out."""
    by_size: dict[tuple[int, int], dict[int, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for path in files(roots):
        found = path.stat()
        if found.st_size and path.suffix != ".pyc":
            by_size[found.st_size, found.st_mode][found.st_ino].append(path)
    for inodes in by_size.values():
        by_contents: dict[str, list[Path]] = defaultdict(list)
        for paths in inodes.values():
            key = digest(paths[0]) if len(inodes) > 1 else ""
            by_contents[key] += paths
        yield from (paths for paths in by_contents.values() if len(paths) > 1)


def digest(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def replace_by_link(name: Path, target: Path) -> None:
    """In one step, so that the name is never without a file."""
    if name.exists() and name.samefile(target):
        return
    temporary = name.with_name(f".{name.name}.slim")
    temporary.hardlink_to(target)
    temporary.rename(name)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
