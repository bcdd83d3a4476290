"""examples/ci: what users copy, copied, and run as it stands."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.image.engine import ROOT

FOLDER = ROOT / "examples" / "ci"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository of a user's, with the folder under the name that the job expects."""
    shutil.copytree(FOLDER, tmp_path / "ichat-ci", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_the_job_passes_on_the_image(repository: Path, image: str) -> None:
    """Its step is run as the job runs it: in its directory, by a shell, without anything of this checkout."""
    (job,) = yaml.safe_load((repository / "ichat-ci" / "github-actions.yml").read_text())["jobs"].values()
    (step,) = (step for step in job["steps"] if step.get("name") == "Test")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ICHAT_", "PYTEST"))}
    done = subprocess.run(
        ["bash", "-e", "-c", step["run"]],
        cwd=repository / job["defaults"]["run"]["working-directory"],
        env=kept | {"ICHAT_IMAGE": image, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    tests = re.findall(r"^def (test_\w+)", (FOLDER / "test_deployment.py").read_text(), re.M)
    assert [name for name in tests if f"::{name}" not in done.stdout] == []
    assert re.search(r"\b\d+ passed\b(?!.*(skipped|failed))", done.stdout.splitlines()[-1])
    kept_report = next(step for step in job["steps"] if step.get("name") == "Keep the report")
    assert (repository / kept_report["with"]["path"]).exists()


def test_a_deployment_that_does_not_start_says_why(repository: Path, image: str) -> None:
    env = os.environ | {"ICHAT_IMAGE": image, "ICHAT_MODEL_PATH": "/no/such/model"}
    argv = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider"]
    done = subprocess.run(argv, cwd=repository / "ichat-ci", env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ended with 66; the log says:" in done.stdout, done.stdout[-4000:]
    assert "/no/such/model" in done.stdout
