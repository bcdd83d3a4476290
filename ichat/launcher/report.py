"""What one reload, or another command, did."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ichat.launcher.changes import Change


@dataclass
class Report:
    """``failures`` are words by subject; what failed is as the words say."""

    generation: int
    done: list[Change] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    pending: list[Change] = field(default_factory=list)  # only another start of ichat brings them
    cut_off: list[str] = field(default_factory=list)  # instances that were stopped with requests
    took_s: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        return {
            "generation": self.generation,
            "done": [vars(change) for change in self.done],
            "failed": self.failures,
            "needs_restart_of_ichat": [vars(change) for change in self.pending],
            "cut_off": self.cut_off,
            "took_s": round(self.took_s, 3),
        }
