"""The two operators are declared exactly where torchvision could not be imported otherwise."""

import subprocess
import sys
from pathlib import Path

import pytest

from recipes import ROOT

TORCH = """
class Library:
    def __init__(self, *arguments): print("library", *arguments)
    def define(self, operator): print("define", operator.partition("(")[0])
    def __del__(self): print("forgotten")
"""


def run(tmp_path: Path, torch: str, torchvision: str | None, code: str) -> list[str]:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("from torch import library\n")
    (tmp_path / "torch" / "library.py").write_text(TORCH)
    (tmp_path / "torchvision.py").write_text("print('imported')\n")
    for name, version in (("torch", torch), ("torchvision", torchvision)):
        if version:
            (tmp_path / f"{name}-{version}.dist-info").mkdir()
            (tmp_path / f"{name}-{version}.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
    start = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(tmp_path)!r}]; import ichat.python_start.cpu_torchvision as m; m.install(); "
    # os._exit: what Python destroys at its end is not forgotten too early.
    command = [sys.executable, "-I", "-u", "-c", start + code + "; import os; os._exit(0)"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_operators_are_declared_before_the_import_and_kept(tmp_path: Path) -> None:
    said = run(tmp_path, "2.13.0+cpu", "0.28.0", "import torchvision, gc; gc.collect()")
    assert said == ["library torchvision DEF", "define nms", "define qnms", "imported"]


@pytest.mark.parametrize(
    ("torch", "torchvision"), [("2.13.0", "0.28.0"), ("2.13.0+cpu", "0.28.0+cpu"), ("2.13.0+cpu", None)]
)
def test_nothing_is_declared_where_the_builds_fit(tmp_path: Path, torch: str, torchvision: str | None) -> None:
    assert run(tmp_path, torch, torchvision, "import torchvision") == ["imported"]


def test_nothing_happens_until_torchvision_is_imported(tmp_path: Path) -> None:
    assert run(
        tmp_path,
        "2.13.0+cpu",
        "0.28.0",
        "import torch, json; print(len([f for f in sys.meta_path if 'Torchvision' in type(f).__name__]))",
    ) == ["1"]
