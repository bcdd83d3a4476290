"""What flags the pinned engines have: read from the JSON beside this file, which ``generate`` writes."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Literal

from ichat.config.flags import Catalogue, Flag, Kind


@cache
def load_catalogue(engine: Literal["vllm", "sglang"]) -> Catalogue:
    """The flags of one engine. No engine is imported; the file is part of the package."""
    content = json.loads(files(__package__).joinpath(f"{engine}.json").read_bytes())
    return Catalogue(
        engine=engine,
        version=content["version"],
        flags=tuple(
            Flag(
                spellings=tuple(entry["flags"]),
                dest=entry["dest"],
                kind=_kind(entry),
                type=entry.get("type"),
                choices=tuple(entry["choices"]) if "choices" in entry else None,
                default=entry.get("default"),
            )
            for entry in content["flags"]
        ),
    )


def _kind(entry: dict[str, object]) -> Kind:
    if entry["action"] == "boolean":
        return "toggle"
    if entry["action"] == "append":
        return "append"
    kinds: dict[object, Kind] = {0: "switch", "?": "optional", "+": "values", "*": "values"}
    return kinds.get(entry.get("nargs"), "value")
