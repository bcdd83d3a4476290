"""docs/faults.md names a test for each fault: every one of them exists, and no number stands twice."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_ROW = re.compile(r"^\| ([SEDGCHRX]\d+) \| (.+) \| (.+) \| (.+) \|$", re.MULTILINE)


def rows() -> list[tuple[str, str]]:
    """(number, test or tests, or words)."""
    return [(number, test) for number, _, _, test in _ROW.findall((ROOT / "docs" / "faults.md").read_text())]


def test_every_test_that_the_catalogue_names_exists() -> None:
    there: set[str] = set()
    for file in (ROOT / "tests").rglob("test_*.py"):
        there |= set(re.findall(r"def (test_\w+)", file.read_text()))
    named = {name for _, test in rows() for name in re.findall(r"`(test_\w+)`", test)}
    assert named - there == set()


def test_every_row_has_a_test_or_says_how_it_is_done_by_hand() -> None:
    assert [number for number, test in rows() if not test.startswith(("`test_", "by hand"))] == []


def test_no_number_stands_twice_and_none_is_missing() -> None:
    numbers = [number for number, _ in rows()]
    assert len(numbers) == len(set(numbers))
    for letter in "SEDGCHRX":
        own = sorted(int(number[1:]) for number in numbers if number[0] == letter)
        assert own == list(range(1, len(own) + 1)), letter
