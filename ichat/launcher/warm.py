"""`ichat warm`: serve once, for nobody, so that every cache is filled; then tell what was written where.

What an engine compiles depends on the device, the model and the settings, and only the engine knows it. So it starts
as `ichat serve` starts it, up to ready, gets the requests that make it compile more, and is stopped.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ichat.backends.caches import Size, below, caches, size_of
from ichat.config.resolve import Resolved
from ichat.config.schema import Admin, Gateway, Model, Settings
from ichat.config.sources import Sources
from ichat.errors import ExitCode
from ichat.launcher import environment
from ichat.launcher.app import Outside, serve
from ichat.launcher.probe import ask_status
from ichat.launcher.run_dir import PROBE_SOCKET

_POLL_S = 0.2
_REQUEST_S = 600.0
_TEXT = "The quick brown fox jumps over the lazy dog. "
#: Each makes some engine compile something that a greedy request does not.
_REQUESTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("log probabilities", {"logprobs": 5, "temperature": 0}),
    ("sampling", {"temperature": 0.8, "top_p": 0.9, "top_k": 20}),
    ("min_p", {"temperature": 0.8, "min_p": 0.1}),
    ("penalties", {"temperature": 0.8, "presence_penalty": 0.5, "frequency_penalty": 0.5}),
    ("a longer prompt", {"prompt": _TEXT * 20, "temperature": 0}),
    ("a JSON schema", {"temperature": 0, "response_format": {"type": "json_schema", "json_schema": {
        "name": "answer", "schema": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}}}}),
)  # fmt: skip


@dataclass
class Warmed:
    """What came of it."""

    code: ExitCode = ExitCode.OK
    ready_after_s: float | None = None
    requests: list[str] = field(default_factory=list)  # in words, one for each model
    new: dict[str, tuple[Path, Size]] = field(default_factory=dict)  # by the title of the cache
    unchanged: list[str] = field(default_factory=list)


def environment_of(sources: Sources, directory: str | None) -> dict[str, str]:
    """What workers inherit; with ``directory`` every cache is there."""
    inherited = sources.worker_environment()
    return inherited if directory is None else inherited | below(os.path.abspath(directory))  # noqa: PTH100


def warm(resolved: Resolved, outside: Outside) -> Warmed:
    """Start, ask, stop, measure. IchatError: why it did not come to ready. The configured address stays free."""
    private = replace(resolved, settings=_private(resolved.settings))
    places = _places(private.settings.models, outside.environ)
    before = {title: size_of(path) for title, path in places.items()}
    visitor = _Visitor(private.settings)
    visitor.start()
    try:
        code = serve(private, outside)
    finally:
        visitor.over.set()
    found = Warmed(code or visitor.code, visitor.ready_after_s, visitor.told)
    for title, path in places.items():
        difference = size_of(path) - before[title]
        if difference == Size(0, 0):
            found.unchanged.append(title)
        else:
            found.new[title] = (path, difference)
    return found


def render(found: Warmed) -> Iterator[str]:
    """For a person."""
    if found.ready_after_s is None:
        yield "warm: stopped before it was ready"
    else:
        yield f"warm: ready after {found.ready_after_s:.1f} s"
        yield from found.requests
    for title, (path, size) in found.new.items():
        yield f"  {title:<20} {size.files:+6d} files {_text(size.bytes):>12}  {path}"
    if found.unchanged:
        yield f"  nothing new: {', '.join(found.unchanged)}"


def _text(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:+.1f} MiB"


def _private(settings: Settings) -> Settings:
    """The models as they are, reached by nobody else, and given up at the first failure."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = {"host": "127.0.0.1", "port": port, "api_keys": {}, "tls_cert_file": None, "tls_key_file": None}
    server |= {"run_dir": f"/tmp/ichat-warm-{os.getpid()}"}  # noqa: S108  claimed and checked like any other
    return settings.model_copy(
        update={
            "server": settings.server.model_copy(update=server),
            "admin": Admin(),
            "gateway": Gateway(),
            "reload": settings.reload.model_copy(update={"watch": False}),
            "restarts": settings.restarts.model_copy(update={"enabled": False}),
            # An engine that compiles may be silent for long; nobody else waits here.
            "timeouts": settings.timeouts.model_copy(
                update={"linger_s": 0.0, "probe_limit_s": settings.timeouts.busy_limit_s}
            ),
        }
    )


def _places(models: Sequence[Model], environ: Mapping[str, str]) -> dict[str, Path]:
    """The caches of all models, as their workers see them."""
    found: dict[str, Path] = {}
    for model in models:
        for title, path in caches(environment.for_worker(environ, model, "/nonexistent")).items():
            if path not in found.values():
                found[title if title not in found else f"{title} ({model.name})"] = path
    return found


class _Visitor(threading.Thread):
    """Waits until it is ready, asks, and has this process stop. A thread: the loop is the launcher's."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(name="warm", daemon=True)
        self._port, self._models = settings.server.port, settings.models
        self._probe_socket = Path(str(settings.server.run_dir)) / PROBE_SOCKET
        self.over = threading.Event()  # the launcher has ended
        self.ready_after_s: float | None = None
        self.told: list[str] = []
        self.code = ExitCode.OK

    def run(self) -> None:
        began = time.monotonic()
        while (states := self._states()) is None:
            if self.over.wait(_POLL_S):
                return
        self.ready_after_s = time.monotonic() - began
        for model in self._models:
            if words := states[model.name]:
                self.told.append(f"  {words}")
                self.code = ExitCode.ENGINE
            else:
                self.told.append(self._visit(model))
        if not self.over.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    def _states(self) -> dict[str, str] | None:
        """Of each model in words why it will not be ready, empty for one that is; None: some are still loading."""
        status = ask_status(self._probe_socket)
        if status is None or status["front"]["words"] != "serving":
            return None
        found = {model.name: "" for model in self._models}
        for instance in status["instances"]:
            if instance["state"] not in ("ready", "failed"):
                return None
            if instance["state"] == "failed":
                found[instance["model"]] = instance["words"]
        return found if status["instances"] else None

    def _visit(self, model: Model) -> str:
        """All requests to one model, in words. What it cannot answer (an embedder generates nothing) is no failure."""
        began = time.monotonic()
        done: list[str] = []
        refused: list[str] = []
        for title, more in _REQUESTS:
            body = {"model": model.served_name, "prompt": "Hi", "max_tokens": 4, **more}
            status = self._ask("POST", "/v1/completions", body)
            (done if status == 200 else refused).append(title if status == 200 else f"{title} ({status})")
        words = f"  {model.name} ({model.backend}): {len(done)} requests in {time.monotonic() - began:.1f} s"
        return f"{words}; not answered: {', '.join(refused)}" if refused else words

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_REQUEST_S)
        try:
            connection.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            return 0
        else:
            return answer.status
        finally:
            connection.close()
