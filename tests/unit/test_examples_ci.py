"""examples/ci: a job that GitHub accepts, steps that are right, and a page that names what there is.

tests/image runs the folder as it stands.
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose
from packaging.requirements import Requirement

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "ci"
WORKFLOW = FOLDER / "github-actions.yml"
CONTENT: dict[Any, Any] = yaml.safe_load(WORKFLOW.read_text())
(JOB,) = CONTENT["jobs"].values()
PAGE = (FOLDER / "README.md").read_text()


def is_valid(path: Path) -> bool:
    """By GitHub's schema of workflows, which check-jsonschema brings along."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", path]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_github_accepts_the_workflow(tmp_path: Path) -> None:
    assert is_valid(WORKFLOW)
    (wrong := tmp_path / "wrong.yml").write_text(WORKFLOW.read_text().replace("runs-on:", "run-on:"))
    assert not is_valid(wrong)


def test_actions_are_named_by_their_commit() -> None:
    used = re.findall(r"uses: (\S+)(.*)", WORKFLOW.read_text())
    assert len(used) == 3
    for action, comment in used:
        assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", action)
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment)


@pytest.mark.parametrize("step", [one for one in JOB["steps"] if "run" in one], ids=lambda step: step["name"])
def test_the_commands_of_a_step_are_right_for_a_shell(step: dict[str, Any]) -> None:
    checked = subprocess.run(["bash", "-n", "-c", step["run"]], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    for name in re.findall(r"[\w.-]+\.(?:txt|yml|py)\b", step["run"]):
        assert (FOLDER / name).exists()


def test_what_is_installed_is_what_we_test_with() -> None:
    wanted = [Requirement(line) for line in (FOLDER / "requirements.txt").read_text().splitlines()]
    assert {one.name for one in wanted} == {"openai", "pytest", "pytest-docker"}
    assert [str(one) for one in wanted if version(one.name) not in one.specifier] == []


@pytest.mark.parametrize("name", ["docker-compose.yml", "gpus.yml"])
def test_the_compose_files_fit_the_compose_specification(name: str) -> None:
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (FOLDER / name).read_text())
    PyCompose.from_yaml(text)


def test_the_page_names_every_file_and_every_variable() -> None:
    files = {path.name for path in FOLDER.iterdir() if path.is_file()} - {"README.md"}
    assert [name for name in files if f"`{name}`" not in PAGE and name not in PAGE] == []
    compose, conftest = (FOLDER / "docker-compose.yml").read_text(), (FOLDER / "conftest.py").read_text()
    used = {*re.findall(r"\$\{(\w+)", compose), *re.findall(r"^ +- ([A-Z_]+)$", compose, re.M)}
    used |= set(re.findall(r'environ\.get\("(\w+)"', conftest))
    assert len(used) > 7
    assert [name for name in used if f"`{name}`" not in PAGE] == []
