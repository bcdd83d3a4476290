"""Every field of an engine's routes is harmless by its type, has a rule, or is left to the engine for a reason."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

from ichat.front.routes import known_routes
from tests.real_versions import IMPORTABLE, engine_of
from tests.worker_process import DEMO, ROOT, python_of

#: What only later versions have: SGLang 0.5.23, vLLM 0.33.
LATER = {"mm_processor_kwargs", "parse_context", "prompt_cache_options"}
PATHS = [route.name for route in known_routes() if route.body == "json"]


@functools.cache
def read_fields(backend: str) -> dict[str, Any]:
    """What request_fields.py finds in the environment of an engine."""
    argv = ["--model", str(DEMO), "--max-model-len", "512", "--kv-cache-memory-bytes", str(2**27), "--enable-scale-out"]
    script = Path(__file__).with_name("request_fields.py")
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        done = subprocess.run(
            [python_of(backend), script, json.dumps(argv), json.dumps(PATHS), answer],
            env=os.environ | {"VLLM_TARGET_DEVICE": "cpu", "PYTHONPATH": str(ROOT)}, cwd=ROOT,
            capture_output=True, check=False, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        found: dict[str, Any] = json.loads(answer.read_text())
    return found


@pytest.fixture(scope="module", params=IMPORTABLE)
def found(request: pytest.FixtureRequest) -> dict[str, Any]:
    return read_fields(request.param) | {"engine": engine_of(request.param)}


@pytest.mark.timeout(300)
def test_somebody_looks_at_every_field_that_could_end_an_engine(found: dict[str, Any]) -> None:
    assert found["unseen"] == [], "give each a rule in *_requests.py, or a reason in LEFT_TO_…"


@pytest.mark.timeout(300)
def test_the_fields_are_those_of_the_routes_that_the_front_offers(found: dict[str, Any]) -> None:
    assert {"/v1/completions", "/v1/chat/completions", "/tokenize"} <= set(found["fields"])
    assert "max_tokens" in found["fields"]["/v1/completions"]
    if found["engine"] == "sglang":
        assert {"/generate", "sampling_params"} <= set(found["fields"])


@pytest.mark.timeout(300)
def test_no_field_is_left_to_an_engine_that_has_none_of_this_name(found: dict[str, Any]) -> None:
    names = {name for fields in found["fields"].values() for name in fields}
    assert set(found["left"]) - names <= LATER
