"""What the command line chose, for every benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import ROOT


@dataclass(frozen=True)
class Options:
    """``is_quick``: does it run at all? Its figures mean nothing and are not kept."""

    engines: Sequence[str]
    model: Path = ROOT / "models" / "demo"
    rounds: int | None = None
    is_quick: bool = False

    def rounds_or(self, usual: int, quick: int = 1) -> int:
        return self.rounds or (quick if self.is_quick else usual)


def say(words: str) -> None:
    """Progress, for whoever waits."""
    print(f"  {words}", flush=True)
