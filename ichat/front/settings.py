"""Settings that a reload replaces while everybody who was given them goes on using the same object."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


class Live(SimpleNamespace):
    """The fields of a section of the settings. The launcher has checked them; the schema's own classes would cost a
    third of this process's memory."""

    def replace(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)


def share_of_limits(limits: dict[str, Any], processes: int) -> dict[str, Any]:
    """What one of so many front processes may take of the connections; all other limits are those of one request, or
    are shared where they are counted."""
    return limits | {"connections": -(-limits["connections"] // processes)}
