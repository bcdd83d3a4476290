"""Counts on a hot path, kept as plain numbers, and their form for Prometheus when it asks."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping

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

    def render(self, name: str, labels: Labels) -> Iterable[str]:
        total = 0
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            yield sample(f"{name}_bucket", {**labels, "le": bound}, total)
        yield sample(f"{name}_sum", labels, self._sum)
        yield sample(f"{name}_count", labels, total)


def sample(name: str, labels: Labels, value: float) -> str:
    """One line of the text format."""
    if not labels:
        return f"{name} {value}"
    shown = ",".join(f'{key}="{text.translate(_ESCAPES)}"' for key, text in labels.items())
    return f"{name}{{{shown}}} {value}"


def family(name: str, kind: str, words: str, samples: Iterable[str]) -> list[str]:
    """A metric with its explanation; nothing when it has no samples."""
    lines = list(samples)
    return [f"# HELP {name} {words}", f"# TYPE {name} {kind}", *lines] if lines else []
