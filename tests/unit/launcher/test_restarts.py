"""Whether and when what ended is started again."""

from __future__ import annotations

import pytest

from ichat.config.schema import Restarts, Timeouts
from ichat.errors import ExitCode
from ichat.launcher.restarts import PERMANENT, Decision, Ending, GiveUp, Restart, decide

KILLED = Ending("vLLM process 123 (VLLM::EngineCore) was killed by SIGKILL")


def decision(
    ending: Ending = KILLED, earlier: list[float] | None = None, now: float = 1000.0, **rules: object
) -> Decision:
    restarts = Restarts(**{key: value for key, value in rules.items() if key in Restarts.model_fields})  # type: ignore[arg-type]
    timeouts = Timeouts(**{key: value for key, value in rules.items() if key in Timeouts.model_fields})  # type: ignore[arg-type]
    return decide("demo/0", ending, earlier or [], now, (restarts, timeouts), jitter=0.0)


def test_the_first_restart_comes_at_once() -> None:
    assert decision() == Restart(after_s=0, attempt=1)


def test_the_pause_doubles_from_one_second_to_a_minute() -> None:
    pauses = []
    for so_far in range(1, 9):
        found = decision(earlier=[1000.0] * so_far, max_restarts=100)
        assert isinstance(found, Restart)
        pauses.append(found.after_s)
    assert pauses == [0.75 * s for s in (1, 2, 4, 8, 16, 32, 60, 60)]


def test_jitter_spreads_the_pause_over_a_quarter_and_never_beyond_its_limit() -> None:
    rules = (Restarts(), Timeouts())
    found = [decide("demo/0", KILLED, [1000.0], 1000.0, rules, jitter) for jitter in (0.0, 0.999)]
    assert [one.after_s for one in found if isinstance(one, Restart)] == pytest.approx([0.75, 1.0], abs=0.001)


def test_a_spent_budget_ends_with_69_and_says_so() -> None:
    found = decision(earlier=[900.0, 910.0, 920.0, 930.0, 940.0])
    assert isinstance(found, GiveUp)
    assert found.error.exit_code == ExitCode.ENGINE
    assert str(found.error) == (
        "demo/0: vLLM process 123 (VLLM::EngineCore) was killed by SIGKILL after 5 restarts within 600 s."
        " See the lines above for the cause."
    )


def test_restarts_before_the_window_do_not_count() -> None:
    found = decision(earlier=[100.0, 200.0, 300.0, 399.0, 990.0], now=1000.0)
    assert isinstance(found, Restart)
    assert found.attempt == 2


@pytest.mark.parametrize("code", sorted(PERMANENT))
def test_what_another_start_cannot_change_ends_with_the_workers_own_words_and_code(code: ExitCode) -> None:
    found = decision(Ending("model x has no config.json. Download it again", code, "E-MODEL-DATA"))
    assert isinstance(found, GiveUp)
    assert found.error.exit_code == code
    assert found.error.line() == "ichat: error[E-MODEL-DATA] demo/0: model x has no config.json. Download it again."


def test_the_permanent_codes_are_those_of_the_contract() -> None:
    assert {int(code) for code in PERMANENT} == {64, 65, 66, 71, 73, 77, 78}


@pytest.mark.parametrize("code", [69, 70, 75, 0, 1, 3, 134, None])
def test_everything_else_is_tried_again(code: int | None) -> None:
    assert isinstance(decision(Ending("it ended", code)), Restart)


@pytest.mark.parametrize(("code", "ours"), [(69, 69), (70, 70), (75, 75), (0, 69), (1, 69), (74, 69), (None, 69)])
def test_without_restarts_the_end_is_the_workers_code_and_an_unknown_one_is_69(code: int | None, ours: int) -> None:
    found = decision(Ending("it ended", code), enabled=False)
    assert isinstance(found, GiveUp)
    assert found.error.exit_code == ours


def test_a_hopeless_end_is_not_tried_again() -> None:
    assert isinstance(decision(Ending("not ready within 5 s", is_hopeless=True)), GiveUp)
