"""The engines' environments hold everything that their packages ask for, except for what we left out knowingly."""

import re
import subprocess
from pathlib import Path

import pytest

from locking import REQUIREMENTS
from recipes import LOCKS, ROOT
from tests.real_versions import IMPORTABLE
from versions import names_in

pytestmark = pytest.mark.engine

LEFT_OUT = {name for path in REQUIREMENTS.glob("*.leave-out.txt") for name in names_in(path.read_text())}
# Overruled knowingly in requirements/pins.txt, or by vLLM's own choice of a wheel's platform.
OVERRULED = re.compile(r"^The package `\S+` (?:was built for a different platform|requires `(?:torch|triton)==)")


def uv() -> Path:
    version = (LOCKS / "uv.txt").read_text().partition("uv==")[2].split()[0]
    return ROOT / ".tools" / f"uv-{version}" / "bin" / "uv"


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("engine", IMPORTABLE)
def test_nothing_is_missing_that_was_not_left_out(engine: str) -> None:
    command = [str(uv()), "pip", "check", "--python", str(ROOT / ".venvs" / engine)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    assert "Checked" in checked
    complaints = [line for line in checked.splitlines() if line.startswith("The package")]
    missing = re.compile(r"requires `([\w.-]+).*but it's not installed")
    left_out = {normal(name) for name in LEFT_OUT}
    unexplained = [
        line
        for line in complaints
        if not OVERRULED.match(line) and not ((found := missing.search(line)) and normal(found[1]) in left_out)
    ]
    assert unexplained == []


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_the_engines_are_compiled_to_bytecode(engine: str) -> None:
    package = next((ROOT / ".venvs" / engine).glob(f"lib/python3*/site-packages/{engine}"))
    assert len(list(package.rglob("*.pyc"))) > 0.95 * len(list(package.rglob("*.py")))


def test_torch_is_on_the_disk_once() -> None:
    first, second = (
        next((ROOT / ".venvs" / engine).glob("lib/python3*/site-packages/torch/lib/libtorch_cpu.so"))
        for engine in ("vllm", "sglang")
    )
    assert first.samefile(second)


def test_torchvision_can_be_imported_beside_a_cpu_build_of_torch() -> None:
    python = ROOT / ".venvs" / "sglang" / "bin" / "python"
    subprocess.run([str(python), "-c", "import torchvision.ops"], check=True, capture_output=True)
