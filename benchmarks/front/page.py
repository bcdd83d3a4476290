"""The front's figures for people: a picture, and a section of the README, both made of ``results/front.json``.

``python -m benchmarks.front.page`` makes them anew; a test holds them to what the results say.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.front.picture import picture_of
from benchmarks.report import number

README = Path(__file__).parents[1] / "README.md"
_RESULTS = README.parent / "results" / "front.json"
BEGIN, END = "<!-- front: written by `python -m benchmarks.front.page` -->", "<!-- front: end -->"

#: Columns of the README's table: short heading and title in the results.
COLUMNS = {
    "CPU µs / request": "CPU µs / request",
    "requests/s against direct": "requests/s against direct",
    "added p50 at 1 client, µs": "added p50 at 1 client, µs",
    "CPU µs / chunk, 64 streams": "CPU µs / chunk, 64 streams",
    "chunks/s against direct, 64 streams": "64 streams: chunks/s against direct",
    "chunks/s against direct, flood": "flood: chunks/s against direct",
    "CPU µs / 256 KB request": "CPU µs / 256 KB request",
    "CPU µs / 256 KB answer": "CPU µs / 256 KB answer",
    "RSS idle, MB": "RSS idle, MB",
    "RSS for an open stream, KB": "… for an open stream, KB",
    "RSS of 4 stalled readers, MB": "… of 4 stalled readers, MB",
}


def draw(kept: Path) -> None:
    """Beside the results that were kept."""
    kept.with_suffix(".svg").write_text(picture_of(_read(kept)))


def describe(kept: Path, readme: Path = README) -> None:
    """Replace the section of the README; ValueError when it has none."""
    text = readme.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{readme.name}: there is no section between {BEGIN} and {END}")
    readme.write_text(f"{before}{BEGIN}\n\n{section_of(_read(kept))}\n{END}{after}")


def section_of(found: Mapping[str, Any]) -> str:
    """Circumstances, picture, table, and every acceptance figure with its goal."""
    parts = [_circumstances(found), "![CPU, latency and memory of all contenders](results/front.svg)", _table(found)]
    if found["missing"]:
        parts.append(_list("Not installed, and so not compared:", found["missing"]))
    if found["failed"]:
        parts.append(_list("Gave a wrong answer or none, and has no figure there:", found["failed"]))
    parts.append(_goals(found))
    if found["unmeasured"]:
        parts.append(_list("Promises that could not be measured, which is worse than missed:", found["unmeasured"]))
    return "\n\n".join(parts) + "\n"


def _circumstances(found: Mapping[str, Any]) -> str:
    machine, versions = found["machine"], found["versions"]
    where = "the gateway on one core, load and worker on the other" if found["cores_are_apart"] else "all on one core"
    peers = ", ".join(f"{name} {version}" for name, version in found["contenders"].items() if version)
    return (
        f"Measured {found['date'][:10]} at {versions['commit']} on {machine['cores']} cores of {machine['cpu']},"
        f" {where}; load {machine['load'][0]} before, {found['load_after'][0]} after. {found['rounds']} rounds of"
        f" {found['turn_s']:g} s; medians. {peers}."
    )


def _table(found: Mapping[str, Any]) -> str:
    lines = [["gateway", *COLUMNS.values()], ["---"] + ["--:"] * len(COLUMNS)]
    for name, cells in found["table"].items():
        shown = [number(cells[title]["median"]) if title in cells else "–" for title in COLUMNS]
        if any(cell != "–" for cell in shown):
            lines.append([name, *shown])
    return _markdown(lines)


def _goals(found: Mapping[str, Any]) -> str:
    lines = [
        ["acceptance figure of our front", "value", "middle half", "goal", ""],
        ["---", "--:", "---", "---", "---"],
    ]
    for row in found["rows"]:
        half = " … ".join(number(value) for value in row.get("quartiles", []))
        value = f"{number(row['value'])} {row.get('unit', '')}".strip()
        lines.append([row["figure"], value, half, row.get("goal", ""), verdict_on(row)])
    lines += [[words, "–", "", "", "not compared"] for words in found["not_compared"]]
    return _markdown(lines)


def verdict_on(row: Mapping[str, Any]) -> str:
    """A goal within the middle half of the rounds: another run could say the opposite."""
    if "met" not in row:
        return ""
    verdict = "met" if row["met"] else "**missed**"
    bound = float(row["goal"].partition(" ")[2])
    low, high = row.get("quartiles", (bound, bound))
    return f"{verdict}, within noise" if low < bound < high else verdict


def _list(heading: str, words: Mapping[str, str]) -> str:
    return "\n".join([heading, "", *(f"- {name}: {_first_line(why)}" for name, why in words.items())])


def _first_line(words: str) -> str:
    return words.partition("\n")[0]


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _read(kept: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(kept.read_text())
    return found


if __name__ == "__main__":
    if not _RESULTS.exists():
        sys.exit("benchmarks/results/front.json: no such file. Run `make bench ARGS=front`.")
    draw(_RESULTS)
    describe(_RESULTS)
