"""The last check of the CUDA environments, and whether it still speaks for what they are today.

The environments are too big for every run of a CI. What was found is kept in `record.json`, bound by a hash to all that
it depends on: the locks, the scripts that make the environments, these checks, and ichat's command lines for the engines.
"""

import hashlib
import json
import platform
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recipes import ROOT

RECORD = ROOT / "tests" / "cuda" / "record.json"
BOUND_TO = (
    "requirements/locks/vllm-cuda.txt",
    "requirements/locks/sglang-cuda.txt",
    "scripts/environments/*.py",
    "ichat/backends/*_args.py",
    "tests/cuda/**/*.py",
    "tests/cuda/inside/*.c*",
    "tests/cuda/models/*/config.json",
)


def hashes() -> dict[str, str]:
    """Pattern of files → hash over their names and contents: what of them changed can be told."""
    found = {}
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
    return [pattern for pattern in BOUND_TO if bound.get(pattern) != now[pattern]]


def write(passed: Mapping[str, int], facts: Mapping[str, Any]) -> None:
    """Only of a check that ran whole and passed: file of tests → how many, and what was found."""
    told = {
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "python": platform.python_version(),
        "machine": "without a GPU",
        "passed": dict(Counter(passed)),
        "bound_to": hashes(),
        "found": facts,
    }
    RECORD.write_text(json.dumps(told, indent=2, sort_keys=True) + "\n")
