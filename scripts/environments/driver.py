"""A stand-in for NVIDIA's driver, by which libraries that are linked to it can be imported where there is none."""

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Functions, and those that a macro of the header calls by another name: `#define cuMemFree cuMemFree_v2`.
FUNCTION = re.compile(r"\b(cu[A-Z]\w*)\s*\(|#\s*define\s+cu[A-Z]\w*\s+(cu[A-Z]\w*)\s*$", re.M)
NO_DEVICE = 100


def stub_source(header: str) -> str:
    """C source of a library with every function of cuda.h, each of which says that there is no device."""
    names = sorted({first or second for first, second in FUNCTION.findall(header)})
    return "".join(f"int {name}(void) {{ return {NO_DEVICE}; }}\n" for name in names)


@contextmanager
def stub_driver(header: Path) -> Iterator[Path]:
    """A directory for LD_LIBRARY_PATH that is gone afterwards: a real driver must never find it before itself."""
    with tempfile.TemporaryDirectory(prefix="ichat-driver-") as name:
        folder = Path(name)
        (folder / "cuda.c").write_text(stub_source(header.read_text()))
        command = ["gcc", "-shared", "-fPIC", "-w", "-Wl,-soname,libcuda.so.1", "-o", "libcuda.so.1", "cuda.c"]
        subprocess.run(command, cwd=folder, check=True)
        yield folder
