"""What a person sees of a benchmark, and what is kept of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import Row, rounded

_HEADINGS = ("figure", "value", "middle half", "goal", "met", "medians")
_RIGHT = (1,)  # columns of numbers


def table(rows: Sequence[Row]) -> str:
    """One line for each figure, under headings; columns as wide as they must be."""
    lines = [_HEADINGS, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADINGS))]
    padded = [
        [cell.rjust(width) if column in _RIGHT else cell.ljust(width) for column, (cell, width) in enumerate(pairs)]
        for pairs in (zip(line, widths, strict=True) for line in lines)
    ]
    rule = ["-" * width for width in widths]
    return "\n".join("  ".join(cells).rstrip() for cells in (padded[0], rule, *padded[1:]))


def _cells(row: Row) -> tuple[str, ...]:
    met = {None: "", True: "yes", False: "NO"}[row.is_met] + (" (within noise)" if row.is_within_noise else "")
    half = "" if row.low is None or row.high is None else f"{number(row.low)} … {number(row.high)}"
    sides = ", ".join(f"{name} {number(value)}" for name, value in row.sides.items())
    return row.figure, f"{number(row.value)} {row.unit}".strip(), half, str(row.goal or ""), met, sides


def number(value: float) -> str:
    return f"{rounded(value, 3):g}" if abs(value) < 1e5 else f"{value:.0f}"


def summary(name: str, rows: Sequence[Row], gaps: Sequence[str] = ()) -> str:
    """One line: how many goals were met, and which could not be judged."""
    judged = [row for row in rows if row.goal is not None]
    missed = [row.figure for row in judged if not row.is_met]
    words = f"{name}: {len(judged) - len(missed)} of {len(judged)} goals met"
    words += f"; missed: {', '.join(missed)}" if missed else ""
    return words + (f"; not judged: {', '.join(gaps)}" if gaps else "")


def keep(folder: Path, name: str, rows: Sequence[Row], circumstances: Mapping[str, Any]) -> Path:
    """Write ``<name>.json``; what an earlier run wrote there is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    content = {"name": name, **circumstances, "rows": [row.to_json() for row in rows]}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return path
