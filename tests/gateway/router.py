"""The real smg, as `make setup` installs it, started as a user starts it."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.launcher_process import ROOT, ask

SMG = ROOT / ".venvs" / "peers" / "bin" / "smg"
STEP_S = 0.01
JSON = {"Content-Type": "application/json"}


class Router:
    """``with Router() as it:`` — on a port of its own, which it keeps when it is started again."""

    def __init__(self, *flags: str, key: str | None = None) -> None:
        self.port, self._metrics_port = free_port(), free_port()
        self.log = Path(tempfile.mkstemp(prefix="smg-")[1])
        self._flags = flags
        self._headers = {**JSON, **({"Authorization": f"Bearer {key}"} if key else {})}
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Router:
        places = ("--host", "127.0.0.1", "--port", str(self.port), "--prometheus-port", str(self._metrics_port))
        habits = ("--policy", "round_robin", "--disable-tokenizer-autoload", "--log-level", "warn")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(SMG), "launch", *places, *habits, *self._flags], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.wait_for(lambda: ask(self.port, "GET", "/liveness")[0] == 200, 20)
        return self

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def __enter__(self) -> Router:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.log.unlink()

    # ---- what it says -----------------------------------------------------------------------------------------

    def call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        status, text = ask(self.port, method, path, None if body is None else json.dumps(body), self._headers)
        with contextlib.suppress(ValueError):
            return status, json.loads(text)
        return status, text

    def workers(self) -> list[dict[str, Any]]:
        status, answer = self.call("GET", "/workers")
        return answer["workers"] if status == 200 else []

    def ready(self) -> dict[int, str | None]:
        """Whom it chooses among: port → incarnation."""
        return {
            int(one["url"].rpartition(":")[2].rstrip("/")): one.get("labels", {}).get("ichat.incarnation")
            for one in self.workers()
            if one["status"] == "ready"
        }

    def wait_for(self, condition: Callable[[], Any], limit_s: float) -> Any:
        end = time.monotonic() + limit_s
        while not (value := condition()):
            if time.monotonic() > end:
                raise AssertionError(f"not within {limit_s} s; it lists {self.workers()} and says:\n{self.words()}")
            time.sleep(STEP_S)
        return value

    def words(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
