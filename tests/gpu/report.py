"""The one report: what was asked, what came of it, on which machine. Written anew after every check."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks.report import number

#: ``not run``: there was no time, or what it stands on has failed. Only the first three are fine.
Outcome = Literal["passed", "needs a GPU", "not possible", "failed", "not run"]
FINE: tuple[Outcome, ...] = ("passed", "needs a GPU", "not possible")


@dataclass(frozen=True)
class Finding:
    """One check of one engine. ``why`` is empty only where it passed; ``log`` is the end of what the server said."""

    engine: str
    stage: str
    check: str
    outcome: Outcome
    why: str = ""
    took_s: float = 0.0
    figures: Mapping[str, Any] = field(default_factory=dict)
    log: str = ""

    @property
    def name(self) -> str:
        return f"{self.engine}: {self.stage}: {self.check}"


class Report:
    """``build/gpu-proof.json`` for machines, and beside it the same as Markdown for people."""

    def __init__(self, path: Path, facts: Mapping[str, Any], *, accepts_unfinished: bool = False) -> None:
        self.path, self.facts = path, dict(facts)
        self._fine = (*FINE, "not run") if accepts_unfinished else FINE
        self.findings: list[Finding] = []
        self.state = "running"
        path.parent.mkdir(parents=True, exist_ok=True)

    @property
    def exit_code(self) -> int:
        """0: every check that this machine (and, if that is accepted, the time) allows was run to its end and passed."""
        is_fine = self.state == "finished" and all(finding.outcome in self._fine for finding in self.findings)
        return 0 if is_fine and self.counts().get("passed") else 1

    def counts(self) -> dict[str, int]:
        found = [finding.outcome for finding in self.findings]
        return {outcome: found.count(outcome) for outcome in (*FINE, "failed", "not run") if outcome in found}

    def add(self, finding: Finding) -> None:
        self.findings.append(finding)
        self.write()

    def end(self, state: str, **facts: Any) -> None:
        self.state = state
        self.facts |= facts
        self.write()

    def write(self) -> None:
        """Whole or not at all, so that who interrupts us finds the last whole one."""
        content = {
            "state": self.state,
            "counts": self.counts(),
            "facts": self.facts,
            "checks": [dataclasses.asdict(finding) for finding in self.findings],
        }
        _replace(self.path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        _replace(self.path.with_suffix(".md"), self.to_markdown())

    def to_markdown(self) -> str:
        counts = ", ".join(f"{count} {outcome}" for outcome, count in self.counts().items()) or "nothing was run"
        lines = [f"# GPU proof: {self.state}: {counts}", "", *_facts(self.facts), ""]
        lines += ["| engine | stage | check | outcome | s | figures |", "| --- | --- | --- | --- | --- | --- |"]
        lines += [_row(finding) for finding in self.findings]
        for finding in self.findings:
            if finding.outcome == "failed":
                lines += ["", f"## {finding.name}: failed", "", finding.why, "", "```", finding.log, "```"]
        return "\n".join(lines) + "\n"


def _facts(facts: Mapping[str, Any], within: str = "") -> Iterable[str]:
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _facts(value, f"{within}{name}: ")
        else:
            yield f"- {within}{name}: {_cell(value)}"


def _row(finding: Finding) -> str:
    shown = ", ".join(f"{name} {_cell(value)}" for name, value in finding.figures.items())
    told = shown if finding.outcome == "passed" else f"{finding.why.partition(chr(10))[0][:160]} {shown}".strip()
    cells = (finding.engine, finding.stage, finding.check, finding.outcome, f"{finding.took_s:.1f}", told)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|').replace(chr(10), ' ') for cell in cells)} |"


def _cell(value: Any) -> str:
    return number(value) if isinstance(value, float) else str(value)


def _replace(path: Path, text: str) -> None:
    new = path.with_name(f"{path.name}.new")
    new.write_text(text)
    new.replace(path)
