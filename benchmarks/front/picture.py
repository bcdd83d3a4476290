"""All contenders in one picture: a small chart for each figure, drawn as SVG without any library."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from benchmarks.front.gateways import GATEWAYS
from benchmarks.front.our_front import NAME as OURS
from benchmarks.report import number

#: Title in the results, and what the chart says: in each less is better.
CHARTS = {
    "CPU µs / request": "CPU µs for a small request",
    "CPU µs / chunk, 64 streams": "CPU µs for a chunk, 64 streams",
    "added p50 at 1 client, µs": "added latency at 1 client, µs",
    "CPU µs / 256 KB request": "CPU µs for a 256 KB request",
    "RSS idle, MB": "memory at rest, MB",
    "RSS for an open stream, KB": "memory for an open stream, KB",
}
_COLUMNS = 2
_WIDTH, _LABELS, _NUMBERS = 450, 150, 60  # of a chart, and of it: names at the left, numbers at the right
_ROW, _HEADING, _GAP, _MARGIN = 20, 34, 24, 20
_MOST_TICK_WORDS = 7
_TEXT, _FAINT, _GRID = "#1f2328", "#59636e", "#d1d9e0"
_COLOURS = {"ours": "#c2410c", "peer": "#2563eb", "floor": "#8b949e"}
_LEGEND = {"ours": "ours", "peer": "peers", "floor": "parses nothing"}
_FLOORS = {gateway.name for gateway in GATEWAYS if gateway.is_floor}


@dataclass(frozen=True)
class Scale:
    """Logarithmic, because contenders differ by a factor of a hundred; begins and ends at a tick."""

    ticks: Sequence[float]
    width: float

    @classmethod
    def over(cls, values: Sequence[float], width: float) -> Scale:
        """Wide enough for all of them; nothing at or below zero can be shown."""
        powers = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
        steps = [step * 10.0**power for power in powers for step in (1, 2, 5)]
        first = max(step for step in steps if step <= min(values))
        last = min(step for step in steps if step >= max(values) and step > first)
        return cls([step for step in steps if first <= step <= last], width)

    def at(self, value: float) -> float:
        """Beyond an end is at the end."""
        low, high = math.log10(self.ticks[0]), math.log10(self.ticks[-1])
        share = (math.log10(value) - low) / (high - low)
        return min(1.0, max(0.0, share)) * self.width


def picture_of(found: Mapping[str, Any]) -> str:
    """The charts in the order of ``CHARTS``, each sorted; a chart that nobody has a figure for is left out."""
    cells = {title: _shown(found["table"], title) for title in CHARTS}
    charts = [(title, values) for title, values in cells.items() if values]
    rows = max((len(values) for _, values in charts), default=0)
    height = _HEADING + rows * _ROW + _GAP
    lines = -(-len(charts) // _COLUMNS)
    size = (_COLUMNS * _WIDTH + 3 * _MARGIN, lines * height + _HEADING + _MARGIN)
    drawn = [
        f'<g transform="translate({_MARGIN + (index % _COLUMNS) * (_WIDTH + _MARGIN)} {_MARGIN + index // _COLUMNS * height})">'
        f"{''.join(_chart(CHARTS[title], values))}</g>"
        for index, (title, values) in enumerate(charts)
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}" width="{size[0]}" height="{size[1]}"'
        f' font-family="system-ui, sans-serif" font-size="12" fill="{_TEXT}">\n'
        f'<title>The front and its peers</title><rect width="100%" height="100%" fill="#ffffff"/>\n'
        + "\n".join([*drawn, f'<g transform="translate({_MARGIN} {size[1] - _MARGIN})">{"".join(_legend())}</g>'])
        + "\n</svg>\n"
    )


def _shown(table: Mapping[str, Mapping[str, Any]], title: str) -> list[tuple[str, Mapping[str, float]]]:
    values = [(name, cells[title]) for name, cells in table.items() if title in cells and cells[title]["median"] > 0]
    return sorted(values, key=lambda pair: pair[1]["median"])


def _legend() -> Iterator[str]:
    x = 0
    for kind, words in _LEGEND.items():
        yield f'<circle cx="{x + 5}" cy="-4" r="4.5" fill="{_COLOURS[kind]}"/><text x="{x + 15}">{words}</text>'
        x += 30 + 7 * len(words)
    yield f'<text x="{x}" fill="{_FAINT}">Less is better; scales are logarithmic; lines span the middle half of the rounds.</text>'


def _chart(heading: str, values: Sequence[tuple[str, Mapping[str, float]]]) -> Iterator[str]:
    scale = Scale.over([cells["median"] for _, cells in values], _WIDTH - _LABELS - _NUMBERS)
    bottom = _HEADING + len(values) * _ROW
    yield f'<text y="12" font-weight="600">{escape(heading)}</text>'
    for tick in scale.ticks:
        x = _LABELS + scale.at(tick)
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_HEADING - 6}" y2="{bottom}" stroke="{_GRID}"/>'
        if len(scale.ticks) <= _MOST_TICK_WORDS or math.log10(tick).is_integer():
            yield f'<text x="{x:.1f}" y="{_HEADING - 9}" font-size="9" fill="{_FAINT}" text-anchor="middle">{number(tick)}</text>'
    for index, (name, cells) in enumerate(values):
        yield from _dot(name, cells, scale, _HEADING + (index + 0.5) * _ROW)


def _dot(name: str, cells: Mapping[str, float], scale: Scale, y: float) -> Iterator[str]:
    """The median, with a line over the middle half of the rounds."""
    kind = "ours" if name == OURS else "floor" if name in _FLOORS else "peer"
    colour, weight = _COLOURS[kind], ' font-weight="600"' if kind == "ours" else ""
    x = _LABELS + scale.at(cells["median"])
    yield f'<text x="{_LABELS - 8}" y="{y + 4:.1f}" text-anchor="end"{weight}>{escape(name)}</text>'
    if cells.get("low", 0) > 0:
        low, high = (_LABELS + scale.at(cells[end]) for end in ("low", "high"))
        yield f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="{colour}" stroke-width="2" opacity="0.5"/>'
    yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{colour}"/>'
    value = number(cells["median"])
    yield f'<text x="{_WIDTH}" y="{y + 4:.1f}" text-anchor="end" fill="{_FAINT}"{weight}>{value}</text>'
