"""The runner of the GPU proof: whatever a check does, every check has a finding, and nothing takes longer than it may."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.gpu.bench import Bench, NotPossibleError, Site
from tests.gpu.budget import Budget, OutOfTimeError, deadline
from tests.gpu.proof import Proof
from tests.gpu.report import Report
from tests.gpu.stages import STAGES, Check, Stage

Run = Callable[[Bench], dict[str, Any]]


def passes(bench: Bench) -> dict[str, Any]:
    return {"ready_s": 1.234567}


def fails(bench: Bench) -> dict[str, Any]:
    raise AssertionError("it says nonsense; the log says:\na long log")


def is_broken(bench: Bench) -> dict[str, Any]:
    raise KeyError("choices")


def cannot(bench: Bench) -> dict[str, Any]:
    raise NotPossibleError("this card has no such thing")


def interrupts(bench: Bench) -> dict[str, Any]:
    raise KeyboardInterrupt


def outcomes_of(
    tmp_path: Path, *runs: Run, budget: Budget | None = None, accelerator: str = "cuda"
) -> list[tuple[str, str]]:
    report = Report(tmp_path / "report.json", {})
    checks = tuple(Check(f"check {number}", run, limit_s=5) for number, run in enumerate(runs))
    run_stages(tmp_path, report, (Stage("one", lambda engine, site: {}, checks),), budget, accelerator)
    return [(finding.outcome, finding.why) for finding in report.findings]


def run_stages(
    tmp_path: Path, report: Report, stages: tuple[Stage, ...], budget: Budget | None = None, accelerator: str = "cuda"
) -> None:
    site = Site(tmp_path / "entrypoint", accelerator, tmp_path)  # type: ignore[arg-type]
    Proof(site, ["vllm"], stages, budget or Budget(600), report).run()


def test_a_check_that_fails_is_told_without_the_log_and_the_next_one_follows(tmp_path: Path) -> None:
    found = outcomes_of(tmp_path, passes, fails, is_broken, passes)
    assert found == [("passed", ""), ("failed", "it says nonsense"), ("failed", "KeyError: 'choices'"), ("passed", "")]


def test_nothing_follows_a_start_that_failed(tmp_path: Path) -> None:
    found = outcomes_of(tmp_path, fails, passes)
    assert found[1] == ("not run", "because of check 0, which failed")


def test_what_is_not_possible_is_no_failure_and_nor_is_what_follows_it(tmp_path: Path) -> None:
    found = outcomes_of(tmp_path, cannot, passes)
    assert found == [("not possible", "this card has no such thing")] * 2


def test_a_stage_that_needs_a_gpu_is_not_started_without_one(tmp_path: Path) -> None:
    report = Report(tmp_path / "report.json", {})
    stage = Stage("sleep", lambda engine, site: {}, (Check("ready", fails, 5),), needs_gpu={"vllm": "device memory"})
    run_stages(tmp_path, report, (stage,), accelerator="cpu")
    assert [(one.outcome, one.why) for one in report.findings] == [("needs a GPU", "device memory")]
    run_stages(tmp_path, report, (stage,))
    assert report.findings[-1].outcome == "failed"


def test_what_does_not_fit_into_the_time_is_not_run_and_no_success(tmp_path: Path) -> None:
    clock = iter([0.0, *[90.0] * 20])
    found = outcomes_of(tmp_path, passes, passes, budget=Budget(120, kept_s=20, now=lambda: next(clock)))
    assert found[0] == ("not run", "time: 10 of 120 s are left")
    assert found[1][0] == "not run"


@pytest.mark.parametrize(("run", "code"), [(passes, 0), (fails, 1)])
def test_who_accepts_an_unfinished_run_still_gets_its_failures(tmp_path: Path, run: Run, code: int) -> None:
    report = Report(tmp_path / "report.json", {}, accepts_unfinished=True)
    stage = Stage("one", lambda engine, site: {}, (Check("ready", run, 5), Check("words", passes, 5)))
    clock = iter([*[0.0] * 3, *[99.0] * 20])
    run_stages(tmp_path, report, (stage,), Budget(120, kept_s=20, now=lambda: next(clock)))
    report.end("finished")
    assert report.findings[1].outcome == "not run"
    assert report.exit_code == code


def test_a_check_never_gets_more_time_than_is_left() -> None:
    clock = iter([0.0, *[70.0] * 4])
    budget = Budget(120, kept_s=20, now=lambda: next(clock))
    assert budget.limit_for(240, at_least_s=25) == 30
    assert budget.limit_for(10, at_least_s=2) == 10


def test_a_deadline_ends_any_wait() -> None:
    began = time.monotonic()
    with pytest.raises(OutOfTimeError, match="not done within 0 s"), deadline(0.05):
        time.sleep(5)  # interrupted at once
    assert time.monotonic() - began < 1


def test_a_deadline_that_was_kept_is_gone() -> None:
    with deadline(0.05):
        pass
    time.sleep(0.06)  # the alarm would ring here


def test_an_interrupted_run_has_left_a_whole_report(tmp_path: Path) -> None:
    report = Report(tmp_path / "report.json", {"gpu": {"name": "none"}})
    checks = (Check("ready", passes, 5), Check("kill", interrupts, 5))
    with pytest.raises(KeyboardInterrupt):
        run_stages(tmp_path, report, (Stage("one", lambda engine, site: {}, checks),))
    report.end("interrupted")
    kept = json.loads(report.path.read_text())
    assert (kept["state"], kept["counts"]) == ("interrupted", {"passed": 1, "not run": 1})
    assert kept["checks"][1]["why"] == "interrupted"
    assert kept["checks"][0]["figures"] == {"ready_s": 1.234567}
    assert report.exit_code == 1


def test_only_a_run_that_came_to_its_end_without_a_failure_is_a_success(tmp_path: Path) -> None:
    for runs, code in (((passes, cannot), 0), ((passes, fails), 1), ((cannot,), 1)):
        report = Report(tmp_path / "report.json", {})
        checks = tuple(Check(str(number), run, 5) for number, run in enumerate(runs))
        run_stages(tmp_path, report, (Stage("one", lambda engine, site: {}, checks),))
        report.end("finished")
        assert report.exit_code == code


def test_people_read_the_same_with_the_failures_below(tmp_path: Path) -> None:
    report = Report(tmp_path / "report.json", {"gpu": {"name": "NVIDIA H200"}})
    checks = (Check("ready", passes, 5), Check("words", fails, 5))
    run_stages(tmp_path, report, (Stage("one", lambda engine, site: {}, checks),))
    text = report.path.with_suffix(".md").read_text()
    assert text.startswith("# GPU proof: running: 1 passed, 1 failed\n\n- gpu: name: NVIDIA H200\n")
    assert "| vllm | one | ready | passed | 0.0 | ready_s 1.23 |" in text
    assert "## vllm: one: words: failed\n\nit says nonsense\n" in text


def test_every_stage_starts_its_server_first_and_leaves_nothing() -> None:
    names = [[check.name for check in stage.checks] for stage in STAGES]
    assert all(checks[0] == "ready" for checks in names)
    assert all("nothing left" in checks for checks in names)
    assert all(len(set(checks)) == len(checks) for checks in names)
    assert len({stage.name for stage in STAGES}) == len(STAGES)


def test_the_page_names_every_stage() -> None:
    page = (Path(__file__).parents[3] / "docs" / "development.md").read_text()
    assert [stage.name for stage in STAGES if f"| `{stage.name}` |" not in page] == []
