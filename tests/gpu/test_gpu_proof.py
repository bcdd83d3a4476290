"""The proof as tests, one for each check on each engine: `make gpu-proof` seen through pytest. They need a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.gpu.device import Device, NoDeviceError, chosen
from tests.gpu.stages import STAGES
from tests.real_engine import ENGINES

CHECKS = [(engine, stage.name, check.name) for stage in STAGES for engine in ENGINES for check in stage.checks]


def gpu_or_why() -> str:
    """Nothing where there is one."""
    try:
        Device(chosen({})).facts()
    except NoDeviceError as error:
        return f"needs a GPU: {error}"
    return ""


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, str], dict[str, Any]]:
    """What one run of the whole proof has found."""
    if why := gpu_or_why():
        pytest.skip(why)
    path = tmp_path_factory.mktemp("proof") / "gpu-proof.json"
    subprocess.run([sys.executable, "-m", "tests.gpu", "--report", path], check=False)
    return by_check(path)


def by_check(path: Path) -> dict[tuple[str, str, str], dict[str, Any]]:
    return {(one["engine"], one["stage"], one["check"]): one for one in json.loads(path.read_text())["checks"]}


@pytest.mark.gpu
@pytest.mark.timeout(660)
@pytest.mark.parametrize(("engine", "stage", "check"), CHECKS)
def test_on_a_gpu(findings: dict[tuple[str, str, str], dict[str, Any]], engine: str, stage: str, check: str) -> None:
    finding = findings[engine, stage, check]
    if finding["outcome"] == "not possible":
        pytest.skip(finding["why"])
    assert finding["outcome"] == "passed", f"{finding['why']}\n{finding['log']}"


@pytest.mark.engine
@pytest.mark.timeout(180)
def test_the_first_stage_is_rehearsed_without_a_gpu(tmp_path: Path) -> None:
    """So that the proof itself is known to work before it meets its first GPU."""
    path = tmp_path / "gpu-proof.json"
    command = [sys.executable, "-m", "tests.gpu", "--accelerator", "cpu", "--engines", "vllm", "--stages", "default",
               "--budget-s", "170", "--report", path]  # fmt: skip
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    outcomes = {check: one["outcome"] for (_, _, check), one in by_check(path).items()}
    assert outcomes.pop("graphs") == "needs a GPU", done.stdout
    assert set(outcomes.values()) == {"passed"}, done.stdout
    assert done.returncode == 0, done.stderr
    assert path.with_suffix(".md").read_text().startswith("# GPU proof: finished: ")
