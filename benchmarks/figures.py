"""The numbers that a benchmark reports, and the statistics that make them out of noisy rounds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Goal:
    """A bound: the value must be at most, or at least, so much."""

    bound: float
    is_upper: bool

    @classmethod
    def parse(cls, text: str) -> Goal:
        """``≤ 0.32`` or ``≥ 0.97``; ValueError for anything else."""
        sign, _, bound = text.partition(" ")
        if sign not in ("≤", "≥"):
            raise ValueError(f'"{text}" is no goal: expected "≤ number" or "≥ number"')
        return cls(float(bound), sign == "≤")

    def is_met_by(self, value: float) -> bool:
        return value <= self.bound if self.is_upper else value >= self.bound

    def __str__(self) -> str:
        return f"{'≤' if self.is_upper else '≥'} {self.bound:g}"


@dataclass(frozen=True)
class Row:
    """One figure. ``low`` and ``high`` are the quartiles of its rounds, ``sides`` the absolute medians behind a ratio."""

    figure: str
    value: float
    unit: str = ""
    goal: Goal | None = None
    low: float | None = None
    high: float | None = None
    sides: Mapping[str, float] = field(default_factory=dict)
    rounds: Sequence[float] = ()

    @property
    def is_met(self) -> bool | None:
        """None: nothing was promised."""
        return None if self.goal is None else self.goal.is_met_by(self.value)

    @property
    def is_within_noise(self) -> bool:
        """The goal lies inside the middle half of the rounds: another run could say the opposite."""
        if self.goal is None or self.low is None or self.high is None:
            return False
        return self.low < self.goal.bound < self.high

    def to_json(self) -> dict[str, Any]:
        kept = {
            "figure": self.figure,
            "value": rounded(self.value),
            "unit": self.unit or None,
            "goal": None if self.goal is None else str(self.goal),
            "met": self.is_met,
            "quartiles": None if self.low is None or self.high is None else [rounded(self.low), rounded(self.high)],
            "sides": {name: rounded(value) for name, value in self.sides.items()},
            "rounds": [rounded(value) for value in self.rounds],
        }
        return {name: value for name, value in kept.items() if value not in (None, {}, [])}


@dataclass(frozen=True)
class Findings:
    """What a benchmark found: its figures; what else a reader may want, ready for JSON; goals that nobody could judge."""

    rows: Sequence[Row]
    facts: Mapping[str, Any] = field(default_factory=dict)
    gaps: Sequence[str] = ()


def median_row(figure: str, rounds: Sequence[float], *, unit: str = "", goal: Goal | None = None) -> Row:
    """The median of the rounds with their quartiles."""
    low, high = quartiles(rounds)
    return Row(figure, statistics.median(rounds), unit, goal, low, high, rounds=rounds)


def ratio_row(
    figure: str, above: Sequence[float], below: Sequence[float], *, names: tuple[str, str], goal: Goal | None = None
) -> Row:
    """The median of ``above / below``, round by round: what slows a whole round down cancels out.

    The sides are shown in the order of ``names``, which belong to ``above`` and ``below``.
    """
    ratios = ratios_of(above, below)
    low, high = quartiles(ratios)
    sides = {names[0]: statistics.median(above), names[1]: statistics.median(below)}
    return Row(figure, statistics.median(ratios), "×", goal, low, high, sides, ratios)


def ratios_of(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Round by round; ValueError unless both have the same rounds and every divisor is above zero."""
    if len(above) != len(below) or not above:
        raise ValueError(f"{len(above)} rounds cannot be compared with {len(below)}")
    if min(below) <= 0:
        raise ValueError(f"a round measured {min(below)}: nothing can be compared with that")
    return [ours / theirs for ours, theirs in zip(above, below, strict=True)]


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """The ends of the middle half, interpolated; of a single value that value twice."""
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def rounded(value: float, digits: int = 4) -> float:
    """To so many significant digits, but never less than whole numbers."""
    if not value or not math.isfinite(value):
        return value
    return round(value, max(0, digits - 1 - math.floor(math.log10(abs(value)))))
