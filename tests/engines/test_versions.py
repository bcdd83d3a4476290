"""The seams of every version that ichat serves, without starting an engine: calls that fit, and routes that are there."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.real_versions import IMPORTABLE, engine_of
from tests.worker_process import DEMO, ROOT, python_of

#: Routes that ichat's warm-up and front stand on.
NEEDED = {
    "vllm": {"POST /v1/completions", "POST /v1/chat/completions", "GET /v1/models", "POST /tokenize", "GET /health"},
    "sglang": {"POST /v1/completions", "POST /v1/chat/completions", "POST /generate", "POST /encode", "GET /v1/models"},
}


@pytest.fixture(scope="module", params=IMPORTABLE)
def seams(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """(engine, what tests/engines/seams.py found in the environment of this version)."""
    answer = tmp_path_factory.mktemp("seams") / "answer.json"
    argv = ["--model", str(DEMO), "--max-model-len", "512", "--kv-cache-memory-bytes", str(2**27)]
    done = subprocess.run(
        [python_of(request.param), Path(__file__).with_name("seams.py"), json.dumps(argv), answer],
        env=os.environ | {"VLLM_TARGET_DEVICE": "cpu"}, cwd=ROOT, capture_output=True, check=False, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return engine_of(request.param), json.loads(answer.read_text())


@pytest.mark.timeout(300)
def test_every_call_that_ichat_makes_fits(seams: tuple[str, dict[str, Any]]) -> None:
    assert seams[1]["misfits"] == []


@pytest.mark.timeout(300)
def test_the_app_has_the_routes_that_ichat_stands_on(seams: tuple[str, dict[str, Any]]) -> None:
    engine, found = seams
    assert NEEDED[engine] - set(found["routes"]) == set()
