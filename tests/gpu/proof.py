"""Runs the plan: one server after the other, each check within its limit, each result at once in the report."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.gpu.bench import Bench, NotPossibleError, Site
from tests.gpu.budget import Budget, deadline
from tests.gpu.report import FINE, Finding, Outcome, Report
from tests.gpu.stages import Check, Stage

#: A start, or any other check, that has less than this left need not begin.
_START_NEEDS_S, _CHECK_NEEDS_S = 25.0, 2.0
_WHY_CHARS = 1500


@dataclass(frozen=True)
class Proof:
    site: Site
    engines: Sequence[str]
    stages: Sequence[Stage]
    budget: Budget
    report: Report

    def run(self) -> None:
        """Every check of the plan has a finding in the report afterwards."""
        notes: dict[str, dict[str, object]] = {engine: {} for engine in self.engines}
        for stage in self.stages:
            for engine in self.engines:
                for finding in self._run_stage(stage, engine, notes[engine]):
                    self.report.add(finding)
                    why = finding.why.partition("\n")[0][:200]
                    print(f"{finding.outcome:12}  {finding.took_s:6.1f} s  {finding.name}  {why}".rstrip(), flush=True)

    def _run_stage(self, stage: Stage, engine: str, notes: dict[str, object]) -> Iterator[Finding]:
        """The findings of its checks. What the first does not pass, the others do not begin."""
        try:
            bench = Bench(engine, self.site, stage.model(engine, self.site), notes)
        except NotPossibleError as error:
            for check in stage.checks:
                yield Finding(engine, stage.name, check.name, "not possible", str(error))
            return
        first: Finding | None = None
        try:
            for check in stage.checks:
                if reason := stage.reason_against(check, engine, self.site):
                    yield Finding(engine, stage.name, check.name, "needs a GPU", reason)
                elif first is not None and first.outcome != "passed":
                    yield _blocked(first, check)
                else:
                    finding = self._run_check(stage, check, bench, is_start=first is None)
                    first = first or finding
                    yield finding
        finally:
            bench.close()

    def _run_check(self, stage: Stage, check: Check, bench: Bench, *, is_start: bool) -> Finding:
        limit_s = self.budget.limit_for(check.limit_s, _START_NEEDS_S if is_start else _CHECK_NEEDS_S)
        if limit_s is None:
            why = f"time: {self.budget.left_s:.0f} of {self.budget.total_s:.0f} s are left"
            return Finding(bench.engine, stage.name, check.name, "not run", why)
        began = time.monotonic()
        outcome: Outcome = "passed"
        why, figures, log = "", {}, ""
        try:
            with deadline(limit_s):
                figures = check.run(bench)
        except NotPossibleError as error:
            outcome, why = "not possible", str(error)
        except KeyboardInterrupt:
            self.report.add(Finding(bench.engine, stage.name, check.name, "not run", "interrupted"))
            raise
        except Exception as error:  # noqa: BLE001  whatever goes wrong in a check is its finding, and the next one follows
            outcome, why, log = "failed", _words(error), bench.log_tail()
        return Finding(bench.engine, stage.name, check.name, outcome, why, time.monotonic() - began, figures, log)


def _blocked(first: Finding, check: Check) -> Finding:
    """A check whose server did not come up: as impossible as that, or not run because of it."""
    outcome: Outcome = first.outcome if first.outcome in FINE else "not run"
    why = first.why if first.outcome != "failed" else f"because of {first.check}, which failed"
    return Finding(first.engine, first.stage, check.name, outcome, why)


def _words(error: Exception) -> str:
    """The reason, without the log that is kept beside it."""
    said = str(error).partition("; the log says:")[0].partition("; it said:")[0].strip()
    kind = "" if isinstance(error, AssertionError) and said else f"{type(error).__name__}: "
    return f"{kind}{said}"[:_WHY_CHARS]
