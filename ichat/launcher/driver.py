"""Whether the NVIDIA driver is new enough for the CUDA that an engine's packages are built for, asked without CUDA.

An engine would find out minutes later, in words that name neither version.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from ichat.errors import ResourceError

Version = tuple[int, ...]

#: The oldest driver for each major version of CUDA (NVIDIA's table of minor version compatibility; Linux).
_OLDEST: dict[int, Version] = {12: (525, 60, 13), 13: (580, 65, 6)}
#: `NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build …`
_DRIVER = re.compile(r"Kernel Module\s+(?:for \S+\s+)?(\d+(?:\.\d+)+)\s")
_CUDA = re.compile(r"^cuda\b[^=]*=\s*['\"](\d+)\.(\d+)['\"]", re.MULTILINE)
_LIBRARY = re.compile(r"libcuda\.so\.(\d+(?:\.\d+)+)")
_COMPAT = "/usr/local/cuda/compat"


def check_driver(subject: str, environment: Path, environ: Mapping[str, str], root: Path = Path("/")) -> None:
    """ResourceError, with both versions and the way out, where the driver is too old for an engine's environment.

    The driver is the kernel's, or a newer libcuda where the loader finds one (NVIDIA's compatibility package). What
    cannot be known is not refused: no such file under /proc (WSL), a torch without CUDA, a CUDA beyond the table.
    """
    cuda, driver = cuda_of(environment), _kernel_driver(root)
    needed = _OLDEST.get(cuda[0]) if cuda else None
    if cuda is None or driver is None or needed is None:
        return
    if max([driver, *_libraries(environ, root)]) >= needed:
        return
    name = f"{cuda[0]}.{cuda[1]}"
    raise ResourceError(
        f"{subject}: the NVIDIA driver {_text(driver)} is too old: the engine is built for CUDA {name}, which needs "
        f"{_text(needed)}. Update the driver of the host{_compat_advice(root, name, needed)}.",
        code="E-GPU-DRIVER",
    )


def cuda_of(environment: Path) -> tuple[int, int] | None:
    """The CUDA that torch in this environment is built for; None: for none, or there is no torch."""
    for file in environment.glob("lib/python3*/site-packages/torch/version.py"):
        if found := _CUDA.search(file.read_text()):
            return int(found[1]), int(found[2])
    return None


def _kernel_driver(root: Path) -> Version | None:
    try:
        found = _DRIVER.search((root / "proc/driver/nvidia/version").read_text())
    except OSError:
        return None
    return _version(found[1]) if found else None


def _libraries(environ: Mapping[str, str], root: Path) -> Iterator[Version]:
    """Of every libcuda in the directories that the loader is told to look into before the system's own."""
    for directory in (*environ.get("LD_LIBRARY_PATH", "").split(":"), *_configured(root)):
        if directory.startswith("/"):
            yield from _in(root / directory.lstrip("/"))


def _configured(root: Path) -> Iterator[str]:
    """NVIDIA's container toolkit writes the compatibility package here when the driver needs it."""
    for file in (root / "etc/ld.so.conf.d").glob("*compat*.conf"):
        yield from file.read_text().split()


def _in(directory: Path) -> Iterator[Version]:
    for file in directory.glob("libcuda.so.*"):
        if found := _LIBRARY.fullmatch(file.name):
            yield _version(found[1])


def _compat_advice(root: Path, cuda: str, needed: Version) -> str:
    """The package is in the image, or can be added; it works on data-centre GPUs only."""
    if any(version >= needed for version in _in(root / _COMPAT.lstrip("/"))):
        return f"; or on a data-centre GPU (driver 535 or newer): -e LD_LIBRARY_PATH={_COMPAT}"
    return f"; or on a data-centre GPU add cuda-compat-{cuda.replace('.', '-')} and -e LD_LIBRARY_PATH={_COMPAT}"


def _version(text: str) -> Version:
    return tuple(map(int, text.split(".")))


def _text(version: Version) -> str:
    """As NVIDIA writes it: 580.65.06."""
    return ".".join([str(version[0]), *(f"{part:02d}" for part in version[1:])])
