"""`ichat warm` on the real engines: what it compiles is there for the next start, and a second run finds nothing to do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launcher_process import ROOT
from tests.real_engine import ENGINES

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]


def warm(backend: str, home: Path) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ICHAT_")}
    kept = {name: value for name, value in kept.items() if not name.endswith("_CACHE_DIR")}
    env = kept | {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
    command = [sys.executable, "-m", "ichat", "warm", "--backend", backend, "--model-path", "demo"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=290, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def new_in(said: str, title: str) -> int:
    """Files that a cache got."""
    found = re.search(rf"^  {re.escape(title)} +([+-]\d+) files", said, re.MULTILINE)
    return int(found[1]) if found else 0


@pytest.mark.parametrize("backend", ENGINES)
def test_what_one_run_compiles_the_next_one_finds(backend: str, tmp_path: Path) -> None:
    first = warm(backend, tmp_path)
    assert "warm: ready after " in first
    assert "6 requests in " in first, first
    if backend == "vllm":  # on the CPU it compiles its log probabilities; SGLang there compiles nothing
        assert new_in(first, "torch.compile") > 0, first
        assert list((tmp_path / ".cache" / "torchinductor").rglob("*.so"))
    second = warm(backend, tmp_path)
    assert new_in(second, "torch.compile") == 0, second
