"""What each environment is made of: pure, so that every question about it can be asked without installing anything."""

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ROOT / "requirements" / "locks"
NAMES = ("ichat", "vllm", "sglang", "dev", "peers")
GB = 10**9

# Lines that `site` runs at every start of an environment's Python. They must cost nothing where they are not meant.
CHILD_HOOK = (
    "import os; 'ICHAT_PDEATHSIG' in os.environ and "
    "__import__('ichat.python_start.child_hook', fromlist=['_']).install()"
)
TORCHVISION_HOOK = "import ichat.python_start.cpu_torchvision; ichat.python_start.cpu_torchvision.install()"


@dataclass(frozen=True)
class Recipe:
    """One way to make one environment: lock files in the order of their installation."""

    name: str
    locks: tuple[Path, ...]
    needs_bytes: int
    """Free disk space that it takes the first time, downloads included."""
    hooks: tuple[str, ...] = ()

    def path_file(self) -> str:
        """The `.pth` file that puts the checkout on the environment's path and installs its hooks."""
        return "\n".join((str(ROOT), *self.hooks, ""))

    def stamp(self) -> str:
        """Changes with everything that the finished environment depends on."""
        digest = hashlib.sha256(f"{sys.version} {Path(sys.executable).resolve()}\n{self.path_file()}".encode())
        makers = (Path(__file__).with_name(f"{module}.py") for module in ("recipes", "building", "uv", "driver_stub"))
        for source in (*self.locks, *makers):
            digest.update(source.read_bytes())
        return f"{digest.hexdigest()} {' '.join(lock.name for lock in self.locks)}\n"

    def package_count(self) -> int:
        return sum(line[:1].isalnum() for lock in self.locks for line in lock.read_text().splitlines())


def recipes_for(name: str, accelerator: str) -> tuple[Recipe, ...]:
    """The ways to make the environment, best first. The next is for when torch's build for the CPU cannot be had."""
    if name in ("ichat", "dev", "peers"):
        return (Recipe(name, (LOCKS / f"{name}.txt",), GB // 2),)
    if accelerator == "cuda":
        return (Recipe(name, (LOCKS / f"{name}-cuda.txt",), 24 * GB, (CHILD_HOOK,)),)
    hooks = (CHILD_HOOK, TORCHVISION_HOOK) if name == "sglang" else (CHILD_HOOK,)
    return (
        Recipe(name, (LOCKS / "torch-cpu.txt", LOCKS / f"{name}-cpu.txt"), 5 * GB, hooks),
        Recipe(name, (LOCKS / f"{name}-cpu-cudatorch.txt",), 12 * GB, (CHILD_HOOK,)),
    )
