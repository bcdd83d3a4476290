"""A launcher under load, with the promises that a test makes meanwhile, and the verdict afterwards."""

from __future__ import annotations

import shutil
from typing import Any

from tests.history.checker import Rules, Verdict, check
from tests.history.driven_load import DrivenLoad
from tests.history.events import Promises
from tests.history.mix import Mix
from tests.history.records import read
from tests.launcher_process import ROOT, Launcher

NOTES = "notes"


class Trial:
    """``with Trial(launcher, mix, rate) as it: …`` and then ``it.judge()``.

    Fake engines whose script has ``notes: launcher.home / NOTES`` are judged too: who worked for whom, how often.
    """

    def __init__(self, launcher: Launcher, mix: Mix, rate: float, **plan: Any) -> None:
        self._launcher, self._plan = launcher, (mix, rate, plan)
        self._path = launcher.home / "history.jsonl"
        self.promises = Promises(self._path)
        self.load: DrivenLoad

    def __enter__(self) -> Trial:
        mix, rate, plan = self._plan
        self.load = DrivenLoad(self._launcher.wait_ready().port, self._path, mix, rate, **plan)
        self.load.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.load.__exit__(*error)
        self.promises.close()

    def wait_until_sent(self, count: int, limit_s: float) -> None:
        self._launcher.wait_for(lambda: self.load.sent >= count, limit_s)

    def judge(self, *, keeps: bool = True, **rules: Any) -> Verdict:
        """After the launcher has stopped, so that every engine has noted the end of all that it did.

        What broke a rule is kept to be looked at, unless it was to be broken.
        """
        home = self._launcher.home
        notes = home / NOTES
        lines = tuple(notes.read_text().splitlines()) if notes.exists() else None
        verdict = check(read(self._path), Rules(notes=lines, **rules))
        if verdict.violations and keeps:
            kept = ROOT / "build" / "trials" / home.name
            kept.mkdir(parents=True)
            for path in (self._path, notes, self._launcher.log):
                if path.exists():
                    shutil.copy(path, kept)
            verdict.kept = f"history, notes and log: {kept.relative_to(ROOT)}"
        return verdict
