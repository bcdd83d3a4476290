"""The statistics behind every figure: goals, medians, ratios round by round."""

import json

import pytest

from benchmarks.figures import Goal, Row, median_row, quartiles, ratio_row, ratios_of, rounded


@pytest.mark.parametrize(
    ("text", "met", "missed"), [("≤ 0.32", [0, 0.32], [0.33, 5]), ("≥ 0.97", [0.97, 2], [0.969, 0])]
)
def test_a_goal_is_a_bound_that_may_be_reached(text: str, met: list[float], missed: list[float]) -> None:
    goal = Goal.parse(text)
    assert str(goal) == text
    assert all(goal.is_met_by(value) for value in met)
    assert not any(goal.is_met_by(value) for value in missed)


@pytest.mark.parametrize("text", ["", "0.3", "< 0.3", "≤0.3", "≥ much"])
def test_what_is_no_goal_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"no goal|could not convert"):
        Goal.parse(text)


def test_a_disturbed_round_does_not_move_the_ratio() -> None:
    """In the third round the whole machine was four times slower, in the fourth something hit one side only."""
    ours, theirs = [98, 97, 24.5, 50, 98], [100, 100, 25, 100, 100]
    row = ratio_row("a", ours, theirs, names=("ichat", "own"))
    assert row.value == pytest.approx(0.98)
    assert row.sides == {"ichat": 97, "own": 100}
    assert [round(ratio, 2) for ratio in row.rounds] == [0.98, 0.97, 0.98, 0.5, 0.98]


def test_the_ratio_of_medians_is_not_the_median_of_ratios() -> None:
    """A drift of the machine over the rounds must not look like a difference between the sides."""
    ours, theirs = [10, 20, 30], [20, 30, 15]
    assert ratios_of(ours, theirs) == pytest.approx([0.5, 2 / 3, 2])
    assert ratio_row("a", ours, theirs, names=("x", "y")).value == pytest.approx(2 / 3)


@pytest.mark.parametrize(("ours", "theirs"), [([], []), ([1, 2], [1]), ([1], [0]), ([1], [-1])])
def test_what_cannot_be_compared_is_an_error(ours: list[float], theirs: list[float]) -> None:
    with pytest.raises(ValueError, match=r"compared"):
        ratios_of(ours, theirs)


def test_quartiles_hold_the_middle_half() -> None:
    assert quartiles([5, 1, 4, 2, 3]) == (2, 4)
    assert quartiles([1, 2]) == (1.25, 1.75)
    assert quartiles([7]) == (7, 7)


def test_a_goal_inside_the_middle_half_is_within_noise() -> None:
    goal = Goal.parse("≥ 0.97")
    assert median_row("a", [0.96, 0.98, 0.99], goal=goal).is_within_noise is False  # the middle half is 0.97 … 0.985
    assert median_row("a", [0.90, 0.96, 0.99, 1.0], goal=goal).is_within_noise is True
    assert median_row("a", [1.0, 1.1, 1.2], goal=goal).is_within_noise is False
    assert median_row("a", [0.5, 2]).is_within_noise is False


def test_a_figure_without_a_goal_is_neither_met_nor_missed() -> None:
    assert Row("a", 1).is_met is None
    assert Row("a", 1, goal=Goal.parse("≤ 0.5")).is_met is False


def test_json_keeps_false_and_zero_and_leaves_out_what_is_absent() -> None:
    row = median_row("a", [0, 0, 3], unit="s", goal=Goal.parse("≥ 1"))
    assert json.loads(json.dumps(row.to_json())) == {
        "figure": "a",
        "value": 0,
        "unit": "s",
        "goal": "≥ 1",
        "met": False,
        "quartiles": [0, 1.5],
        "rounds": [0, 0, 3],
    }
    assert Row("b", 0).to_json() == {"figure": "b", "value": 0}


@pytest.mark.parametrize(
    ("value", "shown"), [(0.000123456, 0.0001235), (12.3456, 12.35), (123456.7, 123457), (0, 0), (-2.34567, -2.346)]
)
def test_numbers_are_rounded_to_what_they_can_tell(value: float, shown: float) -> None:
    assert rounded(value) == shown
