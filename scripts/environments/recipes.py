"""What each environment is made of: pure, so that every question about it can be asked without installing anything."""

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

from extras import EXTRAS
from versions import CPU, CUDA, ENGINES, LOCKS, ROOT, Further, further_versions, pinned_version

#: Further versions of the engines stand beside the pinned ones, for the tests: always for the CPU.
BESIDE = {each.name: each for each in further_versions() if each.kind != CUDA}
NAMES = ("ichat", *ENGINES, "dev", "peers", *BESIDE)
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
    extras: tuple[str, ...] = ()

    def path_file(self) -> str:
        """The `.pth` file that puts the checkout on the environment's path and installs its hooks."""
        return "\n".join((str(ROOT), *self.hooks, ""))

    def stamp(self) -> str:
        """Changes with everything that the finished environment depends on."""
        digest = hashlib.sha256(f"{sys.version} {Path(sys.executable).resolve()}\n{self.path_file()}".encode())
        modules = ("recipes", "versions", "building", "uv", "extras", "driver_stub")
        makers = (Path(__file__).with_name(f"{module}.py") for module in modules)
        for source in (*self.locks, *makers):
            digest.update(source.read_bytes())
        contents = [*(lock.name for lock in self.locks), *self.extras]
        return f"{digest.hexdigest()} {' '.join(contents)}\n"

    def package_count(self) -> int:
        return sum(line[:1].isalnum() for lock in self.locks for line in lock.read_text().splitlines())


def extra_lock(engine: str, extra: str) -> Path:
    return LOCKS / "extras" / f"{engine}-cuda-{extra}.txt"


def recipes_for(
    name: str, accelerator: str, version: str | None = None, extras: tuple[str, ...] = ()
) -> tuple[Recipe, ...]:
    """The ways to make the environment, best first. The next is for when torch's build for the CPU cannot be had.

    ``version`` is the engine's, one of ``versions.supported_versions()``; the pinned one unless given.
    """
    if name in BESIDE:
        return _on_a_cpu(name, BESIDE[name])
    if name in ENGINES and version not in (None, pinned_version(name)):
        further = Further(name, str(version), accelerator)
        if accelerator == CPU:
            return _on_a_cpu(name, further)
        return (Recipe(name, (further.lock(),), 24 * GB, (CHILD_HOOK,)),)
    if name in ("ichat", "dev", "peers"):
        return (Recipe(name, (LOCKS / f"{name}.txt",), GB // 2),)
    if accelerator == "cuda":
        more = tuple(extra_lock(name, extra) for extra in extras if name not in EXTRAS[extra].is_in)
        return (Recipe(name, (LOCKS / f"{name}-cuda.txt", *more), 24 * GB, (CHILD_HOOK,), extras),)
    hooks = (CHILD_HOOK, TORCHVISION_HOOK) if name == "sglang" else (CHILD_HOOK,)
    return (
        Recipe(name, (LOCKS / "torch-cpu.txt", LOCKS / f"{name}-cpu.txt"), 5 * GB, hooks),
        Recipe(name, (LOCKS / f"{name}-cpu-cudatorch.txt",), 12 * GB, (CHILD_HOOK,)),
    )


def _on_a_cpu(name: str, further: Further) -> tuple[Recipe, ...]:
    """Of another version than the pinned one."""
    hooks = (CHILD_HOOK, TORCHVISION_HOOK) if further.engine == "sglang" else (CHILD_HOOK,)
    best = Recipe(name, (LOCKS / "torch-cpu.txt", further.lock()), 5 * GB, hooks)
    on_cuda_torch = further.lock("-cudatorch")
    others = (Recipe(name, (on_cuda_torch,), 12 * GB, (CHILD_HOOK,)),) if on_cuda_torch.exists() else ()
    return (best, *others)
