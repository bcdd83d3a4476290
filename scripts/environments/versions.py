"""Which versions of the engines there are locks for: the pinned ones, and those of requirements/versions/."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "requirements"
PINS = REQUIREMENTS / "pins.txt"
LOCKS = REQUIREMENTS / "locks"
#: What stands in requirements/versions/ of a version: its pins for a GPU, those for a CPU, and of one that has no build
#: for the CPU those of an environment that only tests use.
CUDA, CPU, WITHOUT_KERNELS = "cuda", "cpu", "without-kernels"
ENGINES = ("vllm", "sglang")
_NAME = re.compile(
    rf"(?P<engine>{'|'.join(ENGINES)})-(?P<version>[0-9][0-9a-z.]*?)(?:-(?P<kind>{CPU}|{WITHOUT_KERNELS}))?"
)


@dataclass(frozen=True)
class Further:
    """A version beside the pinned one, in one kind of environment."""

    engine: str
    version: str
    kind: str

    @property
    def name(self) -> str:
        return f"{self.engine}-{self.version}"

    @property
    def pins(self) -> Path:
        """Goes over pins.txt, line by line."""
        suffix = "" if self.kind == CUDA else f"-{self.kind}"
        return REQUIREMENTS / "versions" / f"{self.name}{suffix}.txt"

    def lock(self, suffix: str = "") -> Path:
        return LOCKS / f"{self.name}-{self.kind}{suffix}.txt"


def further_versions() -> tuple[Further, ...]:
    """All of requirements/versions/."""
    names = sorted(path.stem for path in (REQUIREMENTS / "versions").glob("*.txt"))
    found = (_NAME.fullmatch(name) for name in names)
    return tuple(Further(each["engine"], each["version"], each["kind"] or CUDA) for each in found if each)


def names_in(text: str) -> dict[str, str]:
    """Package → its line, of a requirements file without hashes."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return {line.replace(";", "==").partition("==")[0].strip(): line for line in lines}


def pinned_version(package: str) -> str:
    return names_in(PINS.read_text())[package].partition("==")[2]


def supported_versions(engine: str, accelerator: str) -> list[str]:
    """Those that an environment can be made of, the pinned one first."""
    others = [each.version for each in further_versions() if (each.engine, each.kind) == (engine, accelerator)]
    return [pinned_version(engine), *others]


def refusal(engine: str, version: str, accelerator: str) -> str | None:
    """Why there is no environment of this version, and of which there is one; None if there is."""
    supported = supported_versions(engine, accelerator)
    if version in supported:
        return None
    place = "a GPU" if accelerator == CUDA else "a CPU"
    elsewhere = version in supported_versions(engine, CPU if accelerator == CUDA else CUDA)
    why = f"is not to be had for {place}" if elsewhere else f"there are no locks for it on {place}"
    return (
        f"{engine.upper()}={version}: {why}. There are: {', '.join(supported)}. "
        f"`make bump` says what else exists, docs/engines.md how a version is added."
    )
