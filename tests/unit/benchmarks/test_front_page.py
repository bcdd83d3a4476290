"""The picture and the section of the README say what the results say."""

import json
import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.front import page
from benchmarks.front.our_front import NAME as OURS
from benchmarks.front.picture import CHARTS, Scale, picture_of

RESULTS = Path(page.__file__).parents[1] / "results"

FOUND: dict[str, Any] = {
    "date": "2026-11-24T18:39:00+00:00",
    "machine": {"cores": 2, "cpu": "Some CPU", "load": [0.1, 0, 0]},
    "load_after": [0.9, 0, 0],
    "versions": {"commit": "abc"},
    "cores_are_apart": True,
    "rounds": 7,
    "turn_s": 0.8,
    "contenders": {"direct": None, OURS: None, "HAProxy": "2.6.12"},
    "missing": {"smg": "scripts/setup peers"},
    "failed": {"nginx": "did not start: bad <config>\nmore"},
    "not_compared": ["CPU µs / request: front / smg ≤ 0.2"],
    "unmeasured": {},
    "table": {
        "direct": {"its core's use, 32 clients": {"median": 0.0}},
        OURS: {"CPU µs / request": {"median": 18.0, "low": 17.0, "high": 19.0}, "RSS idle, MB": {"median": 26.0}},
        "HAProxy": {"CPU µs / request": {"median": 12.0, "low": 11.0, "high": 13.0}},
    },
    "rows": [
        {"figure": "front / HAProxy", "value": 1.5, "unit": "×", "goal": "≤ 0.85", "met": False, "quartiles": [1.4, 1.6]},
        {"figure": "close", "value": 0.84, "goal": "≤ 0.85", "met": True, "quartiles": [0.8, 0.9]},
        {"figure": "no goal", "value": 3},
    ],
}  # fmt: skip


def test_the_section_names_who_is_missing_who_failed_and_what_was_missed() -> None:
    section = page.section_of(FOUND)
    assert "- smg: scripts/setup peers" in section
    assert "- nginx: did not start: bad <config>\n" in section
    assert "| front / HAProxy | 1.5 × | 1.4 … 1.6 | ≤ 0.85 | **missed** |" in section
    assert "| close | 0.84 | 0.8 … 0.9 | ≤ 0.85 | met, within noise |" in section
    assert "| no goal | 3 |  |  |  |" in section
    assert "| CPU µs / request: front / smg ≤ 0.2 | – |  |  | not compared |" in section
    assert "\n| direct |" not in section


def test_the_section_replaces_the_one_before_and_nothing_else(tmp_path: Path) -> None:
    kept, readme = tmp_path / "front.json", tmp_path / "README.md"
    kept.write_text(json.dumps(FOUND))
    readme.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n")
    page.describe(kept, readme)
    text = readme.read_text()
    assert text.startswith(f"before\n{page.BEGIN}\n")
    assert text.endswith(f"{page.END}\nafter\n")
    assert "old" not in text
    page.describe(kept, readme)
    assert readme.read_text() == text


def test_a_readme_without_the_section_is_an_error(tmp_path: Path) -> None:
    kept, readme = tmp_path / "front.json", tmp_path / "README.md"
    kept.write_text(json.dumps(FOUND))
    readme.write_text("nothing here")
    with pytest.raises(ValueError, match="no section"):
        page.describe(kept, readme)


def test_the_readme_and_the_picture_are_those_of_the_results() -> None:
    kept = RESULTS / "front.json"
    if not kept.exists():
        assert f"{page.BEGIN}\n\nNot measured yet.\n\n{page.END}" in page.README.read_text()
        return
    found = json.loads(kept.read_text())
    assert f"{page.BEGIN}\n\n{page.section_of(found)}\n{page.END}" in page.README.read_text()
    assert kept.with_suffix(".svg").read_text() == picture_of(found)


def words_of(picture: str) -> list[str]:
    return [text for element in ElementTree.fromstring(picture).iter() if (text := (element.text or "").strip())]


def test_the_picture_shows_who_was_measured_the_best_first() -> None:
    words = words_of(picture_of(FOUND))
    assert words.index("HAProxy") < words.index(OURS)
    assert "direct" not in words
    assert {"12", "18", "26"} <= set(words)


def test_a_chart_without_figures_is_left_out() -> None:
    words = words_of(picture_of(FOUND))
    assert [title for title in CHARTS.values() if title in words] == [
        CHARTS["CPU µs / request"],
        CHARTS["RSS idle, MB"],
    ]


@pytest.mark.parametrize("values", [[12, 18, 218], [1], [10, 100], [0.3, 0.31]])
def test_a_scale_begins_and_ends_at_a_tick_around_all_values(values: list[float]) -> None:
    scale = Scale.over(values, 100)
    assert scale.ticks[0] <= min(values)
    assert scale.ticks[-1] >= max(values)
    assert scale.ticks[-1] > scale.ticks[0]
    positions = [scale.at(value) for value in sorted(values)]
    assert positions == sorted(positions)
    assert all(0 <= position <= 100 for position in positions)
    assert math.isclose(scale.at(scale.ticks[-1]), 100)
