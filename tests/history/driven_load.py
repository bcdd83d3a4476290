"""The load as a test holds it: started and stopped with the test, told what to ask for, and asked how far it is."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.history.mix import Mix
from tests.launcher_process import ROOT


class DrivenLoad:
    """``with DrivenLoad(port, history, mix, rate) as load: …``: no more requests after the block, all answers in.

    With a ``count`` it sends so many, and the block waits for them.
    """

    def __init__(self, port: int, history: Path, mix: Mix, rate: float, **more: Any) -> None:
        plan = {"port": port, "history": str(history), "mix": asdict(mix), "rate": rate, **more}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.history.load", json.dumps(plan)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True, bufsize=1,
        )  # fmt: skip
        self.sent = 0
        self._stops_by_itself = "count" in more
        self._has_begun = threading.Event()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def __enter__(self) -> DrivenLoad:
        assert self._has_begun.wait(10), "the load did not start"
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._process.kill()
            self._process.wait()
            return
        self.stop()

    def ask_for(self, mix: Mix) -> None:
        self._command(mix=asdict(mix))

    def send_at(self, rate: float) -> None:
        self._command(rate=rate)

    def stop(self, limit_s: float = 90) -> None:
        """No more requests; returns when all have ended."""
        if not self._stops_by_itself and self._process.poll() is None:
            self._command(stop=True)
        assert self._process.wait(limit_s) == 0, "the load failed: its traceback is above"
        self._listener.join(5)

    def _command(self, **said: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(said) + "\n")

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.sent = json.loads(line)["sent"]
            self._has_begun.set()
