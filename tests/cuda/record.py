"""The last check of the CUDA environments, and whether it still speaks for what they are today.

The environments are too big for every run of a CI. What was found is kept in `record.json`, bound by a hash to all that
it depends on: the locks, the scripts that make the environments, these checks, and ichat's command lines for the engines.
"""

import hashlib
import json
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ichat.backends.engines import ARGS, load_engines
from ichat.config.resolve import resolve
from ichat.config.sources import Sources
from recipes import ROOT
from tests.cuda.well_known import WELL_KNOWN
from tests.cuda.well_known import Model as WellKnown

RECORD = ROOT / "tests" / "cuda" / "record.json"
BOUND_TO = (
    "requirements/locks/vllm-cuda.txt",
    "requirements/locks/sglang-cuda.txt",
    "scripts/environments/recipes.py",
    "scripts/environments/uv.py",
    "scripts/environments/driver_stub.py",
    "tests/cuda/**/*.py",
    "tests/cuda/inside/*.c*",
    "tests/cuda/models/*/config.json",
)


COMMAND_LINES = "the command lines that ichat makes"


def hashes() -> dict[str, str]:
    """Pattern of files → hash over their names and contents: what of them changed can be told."""
    found = {COMMAND_LINES: hashlib.sha256(json.dumps(command_lines()).encode()).hexdigest()}
    for pattern in BOUND_TO:
        digest = hashlib.sha256()
        for path in sorted(ROOT.glob(pattern)):
            digest.update(f"{path.relative_to(ROOT)} {path.stat().st_size}\n".encode() + path.read_bytes())
        found[pattern] = digest.hexdigest()
    return found


def load() -> dict[str, Any]:
    return dict(json.loads(RECORD.read_text())) if RECORD.exists() else {}


def misfits(record: Mapping[str, Any]) -> list[str]:
    """What has changed since the check; empty if the record speaks for today's environments."""
    bound, now = record.get("bound_to", {}), hashes()
    return [what for what, digest in now.items() if bound.get(what) != digest]


def command_lines() -> dict[str, list[str]]:
    """Engine and well-known model → what ichat gives the engine, without this machine's paths."""
    return {
        f"{engine} {model.name}": [word.replace(str(ROOT), "") for word in argv_of(engine, model)]
        for engine in ARGS
        for model in WELL_KNOWN
    }


def argv_of(engine: str, model: WellKnown) -> list[str]:
    command = ["--backend", engine, "--model-path", str(model.path), "--served-model-name", model.name]
    resolved = resolve(Sources.read(command, {"ICHAT_DEFAULTS__ACCELERATOR": "cuda"}), load_engines())
    (settings,) = resolved.settings.models
    return ARGS[engine].to_argv(settings, accelerator="cuda")


def write(bound_to: Mapping[str, str], passed: Mapping[str, int], facts: Mapping[str, Any]) -> None:
    """Only of a check that ran whole and passed: what it was bound to when it began, file of tests → how many passed."""
    told = {
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "python": platform.python_version(),
        "machine": "without a GPU",
        "passed": dict(passed),
        "bound_to": dict(bound_to),
        "found": facts,
    }
    RECORD.write_text(json.dumps(told, indent=2, sort_keys=True) + "\n")
