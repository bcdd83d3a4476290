"""What flags the engines have: read from the JSON beside this file, which ``generate`` writes.

``<engine>.json`` is the whole list of the pinned version. ``<engine>-<version>.json`` is what another version has
otherwise: the flags that came or changed, and the first spellings of those that went.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, Literal

from ichat.backends.engine_versions import release
from ichat.config.flags import Catalogue, Flag, Kind


@cache
def load_catalogue(engine: Literal["vllm", "sglang"], version: str | None = None) -> Catalogue:
    """The flags of one engine; of the pinned version unless another is given. No engine is imported.

    A version without a list of its own has that of the newest one before it, else of the pinned one: the list says
    which version it is of, and with it every sentence about a flag.
    """
    content = read(engine)
    nearest = _nearest(engine, content["version"], version)
    entries = content["flags"]
    if nearest != content["version"]:
        difference = read(f"{engine}-{nearest}")
        entries = apply(entries, difference)
    return Catalogue(engine=engine, version=nearest, flags=tuple(map(_flag, entries)))


def known_versions(engine: str) -> list[str]:
    """The versions with a list of their own, the oldest first; the pinned one is among them."""
    named = (entry.name.removesuffix(".json").removeprefix(f"{engine}-") for entry in _entries(engine))
    return sorted([read(engine)["version"], *named], key=release)


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(files(__package__).joinpath(f"{name}.json").read_bytes())
    return content


def apply(entries: list[dict[str, Any]], difference: dict[str, Any]) -> list[dict[str, Any]]:
    """The flags of another version, sorted as ``generate`` sorts them."""
    changed = difference["flags"]
    replaced = {*difference["gone"], *(entry["flags"][0] for entry in changed)}
    kept = [entry for entry in entries if entry["flags"][0] not in replaced]
    return in_order([*kept, *changed])


def in_order(entries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(entries, key=lambda entry: (entry["dest"], entry["flags"]))


def _entries(engine: str) -> list[Traversable]:
    return [entry for entry in files(__package__).iterdir() if entry.name.startswith(f"{engine}-")]


def _nearest(engine: str, pinned: str, version: str | None) -> str:
    if version is None or version == pinned:
        return pinned
    return next((known for known in reversed(known_versions(engine)) if release(known) <= release(version)), pinned)


def _flag(entry: dict[str, Any]) -> Flag:
    return Flag(
        spellings=tuple(entry["flags"]),
        dest=entry["dest"],
        kind=_kind(entry),
        type=entry.get("type"),
        choices=tuple(entry["choices"]) if "choices" in entry else None,
        default=entry.get("default"),
        inverses=tuple(entry.get("inverses", ())),
    )


def _kind(entry: dict[str, object]) -> Kind:
    if entry["action"] == "boolean":
        return "toggle"
    if entry["action"] == "append":
        return "append"
    kinds: dict[object, Kind] = {0: "switch", "?": "optional", "+": "values", "*": "values"}
    return kinds.get(entry.get("nargs"), "value")
