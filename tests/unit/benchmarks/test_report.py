"""What is shown and kept of a benchmark."""

import json
from pathlib import Path

from benchmarks import machine, report
from benchmarks.figures import Goal, Row, median_row, ratio_row

ROWS = [
    ratio_row("requests/s", [97, 99], [100, 100], names=("front", "own"), goal=Goal.parse("≥ 0.97")),
    median_row("health", [21.0, 22.0, 23.0], unit="ms", goal=Goal.parse("≤ 20")),
    Row("told only", 0.5),
]


def test_the_table_has_a_line_for_each_figure_and_its_columns_stand_under_their_headings() -> None:
    headings, rule, *lines = report.table(ROWS).splitlines()
    assert len(lines) == len(ROWS)
    starts = [headings.index(word) for word in ("middle half", "goal", "met", "medians")]
    assert [[line[start:].split("  ")[0] for start in starts] for line in lines] == [
        ["0.975 … 0.985", "≥ 0.97", "yes", "front 98, own 100"],
        ["21.5 … 22.5", "≤ 20", "NO", ""],
        ["", "", "", ""],
    ]
    assert set(rule) == {"-", " "}
    assert "0.98 ×" in lines[0]
    assert "22 ms" in lines[1]


def test_a_goal_that_another_run_may_miss_is_marked() -> None:
    row = median_row("a", [0.9, 0.96, 0.98, 1.0, 1.1], goal=Goal.parse("≥ 0.97"))
    assert "yes (within noise)" in report.table([row])


def test_the_summary_names_what_was_missed_and_counts_goals_only() -> None:
    assert report.summary("x", ROWS) == "x: 1 of 2 goals met; missed: health"
    assert report.summary("x", ROWS[:1]) == "x: 1 of 1 goals met"


def test_what_is_kept_can_be_read_again_and_replaces_what_was_there(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    report.keep(folder, "x", ROWS[:1], {"date": "then"})
    path = report.keep(folder, "x", ROWS, {"date": "now"})
    kept = json.loads(path.read_text())
    assert kept["name"] == "x"
    assert kept["date"] == "now"
    assert [row["figure"] for row in kept["rows"]] == ["requests/s", "health", "told only"]
    assert kept["rows"][0]["sides"] == {"front": 98, "own": 100}


def test_circumstances_tell_the_machine_but_not_where_things_lie() -> None:
    found = machine.circumstances()
    assert found["machine"]["cores"] > 0
    assert found["machine"]["memory_gib"] > 0
    assert {"ichat", "python", "commit"} <= set(found["versions"])
    assert "/" not in machine.words(found)
    assert str(machine.ROOT) not in json.dumps(found)


def test_the_summary_names_what_nobody_could_judge() -> None:
    assert report.summary("front", [], ["front / smg ≤ 0.2", "kill -9"]).endswith(
        "; not judged: front / smg ≤ 0.2, kill -9"
    )
    assert "judged" not in report.summary("front", [])
