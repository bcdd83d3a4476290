"""Settings that a reload replaces while everybody who was given them goes on using the same object."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ichat.ipc import messages

#: Limits of all front processes together: each keeps to its share.
_SHARED = ("connections", "bodies_bytes")
_SHARED_OF_A_MODEL = ("concurrent", "queued")


class Live(SimpleNamespace):
    """The fields of a section of the settings. The launcher has checked them; the schema's own classes would cost a
    third of this process's memory."""

    def replace(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)


def share_of_limits(limits: dict[str, Any], processes: int) -> dict[str, Any]:
    return limits | {name: _share(limits[name], processes) for name in _SHARED}


def share_of_routes(routes: messages.Routes, processes: int) -> None:
    """Changes what the models' limits say, in place."""
    for model in routes.models:
        for name in _SHARED_OF_A_MODEL:
            if limit := model.limits.get(name):
                model.limits[name] = _share(limit, processes)


def _share(limit: int, processes: int) -> int:
    """At least one: a process that may do nothing would refuse what others could take."""
    return max(1, limit // processes)
