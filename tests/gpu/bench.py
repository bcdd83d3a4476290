"""One server under proof: started as a user starts it, with one engine and one model, and what a check may ask of it."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tests.gpu.device import Device, Sample
from tests.launcher_process import ask
from tests.real_engine import ENGINE_ARGS, RealLauncher
from tests.worker_process import DEMO

TOKEN = "a token only for this proof"
_LOG_CHARS = 4000


class NotPossibleError(Exception):
    """This engine, model or machine cannot, and says so: the reason goes into the report. No failure."""


@dataclass(frozen=True)
class Site:
    """Where the proof runs, and on what. ``device`` and ``before`` are None in a rehearsal without a GPU."""

    entrypoint: Path
    accelerator: Literal["cpu", "cuda"]
    folder: Path
    device: Device | None = None
    before: Sample | None = None
    given: str = ""
    embedder: Path | None = None

    @property
    def is_rehearsal(self) -> bool:
        return self.accelerator == "cpu"

    def model(self, engine: str, **settings: Any) -> dict[str, Any]:
        """The demo model with the engine's own defaults; on a CPU as lean as a test wants it."""
        lean = ENGINE_ARGS[engine] if self.is_rehearsal else {}
        args = lean | settings.pop("engine_args", {})
        base = {"model_path": str(DEMO), "context_length": 2048, "accelerator": self.accelerator}
        return base | settings | {"engine_args": args}


class Server(RealLauncher):
    """`ichat serve` with an admin port, by the entrypoint of a checkout or of the image."""

    def __init__(self, engine: str, site: Site, model: dict[str, Any]) -> None:
        super().__init__(
            engine,
            env={"ICHAT_ADMIN_TOKEN": TOKEN},
            model=model,
            command=(str(site.entrypoint),),
            admin={"port": 0},
            restarts={"max_restarts": 1},  # what a check kills; a start that fails is told after its second try
        )

    def wait_ready(self, limit_s: float = 120) -> Server:
        """AssertionError at once when it has ended instead."""
        self.wait_for(self.is_ready, limit_s)
        self.engine_processes()
        return self

    def is_ready(self) -> bool:
        if (code := self.process.poll()) is not None:
            said = self.lines().strip().rpartition("\n")[2]
            raise AssertionError(f"it ended with code {code} before it was ready: {said}")
        return "listening on " in self.lines() and self.get("/readyz")[0] == 200

    @property
    def admin_port(self) -> int:
        return int(self.wait_for(lambda: re.search(r"admin port 127.0.0.1:(\d+)", self.lines()), 5)[1])


@dataclass
class Bench:
    """What the checks of one stage share. ``notes`` carries figures of this engine to later checks and stages."""

    engine: str
    site: Site
    model: dict[str, Any]
    notes: dict[str, Any] = field(default_factory=dict)
    server: Server | None = None

    def start(self) -> Server:
        self.server = Server(self.engine, self.site, self.model)
        return self.server.start()  # type: ignore[return-value]

    def close(self) -> None:
        """Whatever has happened: nothing of it lives afterwards."""
        if self.server is not None:
            self.server.__exit__()
            self.server = None

    @property
    def running(self) -> Server:
        if self.server is None:
            raise AssertionError("there is no server: the stage has not started one")
        return self.server

    def log(self) -> str:
        return self.server.lines() if self.server is not None else ""

    def log_tail(self) -> str:
        return self.log()[-_LOG_CHARS:]

    # ---- requests ---------------------------------------------------------------------------------------------

    def post(self, path: str, body: dict[str, Any], limit_s: float = 60) -> tuple[int, dict[str, Any]]:
        """(status, JSON) of the public port; (0, why) when there is no answer."""
        headers = {"Content-Type": "application/json"}
        status, text = ask(self.running.port, "POST", path, json.dumps(body), headers, timeout_s=limit_s)
        return status, json.loads(text) if status else {"error": text}

    def chat(self, question: str, **asked: Any) -> str:
        """The greedy answer, unless asked otherwise; AssertionError when there is none."""
        body = {"model": "demo", "messages": [{"role": "user", "content": question}], "temperature": 0,
                "max_tokens": 120}  # fmt: skip
        status, answer = self.post("/v1/chat/completions", body | asked)
        assert status == 200, f"{question!r}: status {status}: {answer}"
        return str(answer["choices"][0]["message"]["content"])

    def command(self, action: str, **arguments: Any) -> dict[str, Any]:
        """A command of the admin port that is obeyed. NotPossibleError with the reason where the engine cannot."""
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        path = f"/admin/models/demo/{action}"
        status, text = ask(self.running.admin_port, "POST", path, json.dumps(arguments), headers, timeout_s=120)
        if status == 501:
            raise NotPossibleError(json.loads(text)["error"]["message"])
        assert status == 200, f"{action}: status {status}: {text}"
        return dict(json.loads(text))

    # ---- the device -------------------------------------------------------------------------------------------

    def used_bytes(self) -> int | None:
        return self.site.device.sample().used_bytes if self.site.device else None

    def must_use(self, what: str) -> int:
        """The memory in use. NotPossibleError where the driver does not tell."""
        if (used := self.used_bytes()) is None:
            raise NotPossibleError(f"{what}: the driver does not tell how much memory is in use")
        return used


def seconds_since(began: float) -> float:
    return round(time.monotonic() - began, 3)
