"""The fields of an engine's routes, as its own environment knows them."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from ichat.front.routes import known_routes
from tests.worker_process import DEMO, ROOT, python_of

PATHS = [route.name for route in known_routes() if route.body == "json"]


@functools.cache
def read_fields(backend: str) -> dict[str, Any]:
    """What request_fields.py finds in the environment of an engine."""
    argv = ["--model", str(DEMO), "--max-model-len", "512", "--kv-cache-memory-bytes", str(2**27), "--enable-scale-out"]
    script = Path(__file__).with_name("engines") / "request_fields.py"
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
