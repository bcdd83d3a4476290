"""What a backend reads of a model's files before its engine does."""

from __future__ import annotations

import json
from pathlib import Path


def architectures_of(model_path: str) -> list[str]:
    """The class names in a local model's config.json; empty for a model that is not a directory here (yet)."""
    try:
        config = json.loads(Path(model_path, "config.json").read_bytes())
    except OSError:
        return []
    return list(config.get("architectures") or [])
