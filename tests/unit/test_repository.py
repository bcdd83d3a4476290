"""What a clone must bring along, and the rules of the house that no linter holds."""

import ast
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = sorted((ROOT / "ichat").rglob("*.py"))
TOOLS = sorted([*(ROOT / "scripts").rglob("*.py"), *(ROOT / "docker").rglob("*.py")])
EXECUTABLE = [
    ".ci/run",
    "docker/arrange",
    "docker/fill-environments",
    "docker/install-packages",
    "docker/prefetch",
    "docker/slim.py",
    "entrypoint",
    "scripts/bump",
    "scripts/gpu-proof",
    "scripts/image",
    "scripts/image-size",
    "scripts/setup",
]
# Written apart, so that this file passes its own test.
MACHINE_PATHS = ["/wo" + "rk/", "/root/.py" + "env", "/tmp" + "/x/", "/opt/" + "wheels", "/opt/" + "pypi"]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_help_names_every_target_and_every_target_is_phony() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^([a-z-]+):", makefile, re.M)
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"^  make ([a-z-]+) +\S", shown, re.M) == targets
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.M)
    assert phony is not None
    assert phony[1].split() == targets


def test_make_knows_the_promised_targets() -> None:
    for target in [
        "run",
        "test",
        "help",
        "setup",
        "check",
        "fmt",
        "lint",
        "type",
        "bench",
        "gpu-proof",
        "flags",
        "locks",
        "clean",
        "image",
        "image-size",
        "sbom",
        "provenance",
        "audit",
        "bump",
    ]:
        done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", EXECUTABLE)
def test_what_is_run_by_its_name_is_executable(name: str) -> None:
    assert os.access(ROOT / name, os.X_OK)


@pytest.mark.parametrize("name", EXECUTABLE)
def test_shell_scripts_are_valid_for_a_posix_shell(name: str) -> None:
    if (ROOT / name).read_text().startswith("#!/bin/sh\n"):
        subprocess.run(["sh", "-n", str(ROOT / name)], check=True)


def test_no_file_names_a_path_of_somebodys_machine() -> None:
    found = []
    for path in tracked():
        content = path.read_bytes()
        found += [f"{name_of(path)}: {part}" for part in MACHINE_PATHS if part.encode() in content]
    assert found == []


@pytest.mark.parametrize("path", [*PACKAGE, *TOOLS], ids=name_of)
def test_a_file_fits_in_one_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", [*PACKAGE, *TOOLS], ids=name_of)
def test_a_module_is_a_noun_and_says_why_it_exists(path: Path) -> None:
    assert not {path.stem, path.parent.name} & {"utils", "util", "helpers", "helper", "common", "manager", "misc"}
    source = path.read_text()
    if path.name == "__init__.py" and not source:
        return
    docstring = ast.get_docstring(ast.parse(source))
    assert docstring is not None
    assert len(docstring.split()) >= 4


def uses(path: Path) -> Iterator[str]:
    """What the module touches of the outside: `os.environ`, `os.getenv`, `print` …, as words."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id
        elif isinstance(node, ast.ImportFrom) and node.module in ("os", "sys", "builtins"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def written_only(path: Path) -> bool:
    """True if the module sets variables for the engine but reads none: every `os.environ` is the target of `[…] =`."""
    tree = ast.parse(path.read_text())
    mentions = sum(ast.unparse(node) == "os.environ" for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    stores = sum(
        isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "os.environ"
        for node in ast.walk(tree)
    )
    return mentions == stores


def test_only_sources_reads_the_environment() -> None:
    readers = {
        name_of(path) for path in PACKAGE if {"os.environ", "os.environb"} & set(uses(path)) and not written_only(path)
    } | {name_of(path) for path in PACKAGE if {"os.getenv", "os.getenvb"} & set(uses(path))}
    assert readers == {"ichat/config/sources.py"}


def test_only_the_command_line_and_what_make_runs_print() -> None:
    printers = {name_of(path) for path in PACKAGE if "print" in uses(path)}
    assert printers <= {"ichat/cli.py", "ichat/backends/flags/generate.py"}


def test_git_ignores_what_make_makes() -> None:
    for name in (".venvs/x", ".tools/x", ".run/x", "build/x", "ichat/__pycache__/x"):
        assert subprocess.run(["git", "check-ignore", "-q", name], cwd=ROOT, check=False).returncode == 0, name
