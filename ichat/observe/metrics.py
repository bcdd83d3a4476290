"""Counts on a hot path, kept as plain numbers, and their form for Prometheus when it asks."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

Labels = Mapping[str, str]

_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})


class Histogram:
    """How often a value fell into each bucket; ``bounds`` are their upper ends, in ascending order."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def observe_all(self, values: Collection[float]) -> None:
        counts, bounds = self._counts, self._bounds
        for value in values:
            counts[bisect_left(bounds, value)] += 1
        self._sum += sum(values)

    @property
    def has_any(self) -> bool:
        return any(self._counts)

    def render(self, name: str, labels: Labels) -> Iterator[str]:
        total = 0
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            yield sample(f"{name}_bucket", {**labels, "le": bound}, total)
        yield sample(f"{name}_sum", labels, self._sum)
        yield sample(f"{name}_count", labels, total)


@dataclass(frozen=True)
class Family:
    """A metric: its samples stand together, behind its explanation. One without samples is not mentioned."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    words: str

    def render(self, samples: Iterable[tuple[Labels, float]]) -> list[str]:
        return self._explained([sample(self.name, labels, value) for labels, value in samples])

    def render_histograms(self, samples: Iterable[tuple[Labels, Histogram]]) -> list[str]:
        return self._explained([line for labels, one in samples for line in one.render(self.name, labels)])

    def _explained(self, lines: list[str]) -> list[str]:
        return [f"# HELP {self.name} {self.words}", f"# TYPE {self.name} {self.kind}", *lines] if lines else []


def label_pairs(labels: Labels) -> str:
    """As they stand between the braces."""
    return ",".join(f'{key}="{text.translate(_ESCAPES)}"' for key, text in labels.items())


def sample(name: str, labels: Labels, value: float) -> str:
    """One line of the text format."""
    return f"{name}{{{label_pairs(labels)}}} {value}" if labels else f"{name} {value}"
