"""The launcher with a real engine and the demo model, and what tests ask of it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import psutil

from tests.launcher_process import Launcher
from tests.worker_process import DEMO

ENGINES = ("vllm", "sglang")
#: As lean as a test wants it: no compilation, a small cache.
ENGINE_ARGS: dict[str, dict[str, Any]] = {
    "vllm": {"enforce-eager": True, "kv-cache-memory-bytes": 2**27},
    "sglang": {"max-total-tokens": 32768},
}
#: Tokens of a stream that is still running when a test has done something to it, and has ended long before the drain.
LONG = {"vllm": 1900, "sglang": 500}
#: The processes that each engine cannot live without, by their titles.
TITLES = {"vllm": ("VLLM::EngineCore", "VLLM::Worker"), "sglang": ("sglang::scheduler", "sglang::detokenizer")}


class RealLauncher(Launcher):
    """``Launcher`` with the demo model on a real engine instead of the fake one."""

    def __init__(self, backend: str, *, env: dict[str, str] | None = None, **sections: Any) -> None:
        self.model = {
            "backend": backend, "model_path": str(DEMO), "context_length": 2048, "engine_args": ENGINE_ARGS[backend],
            **sections.pop("model", {}),
        }  # fmt: skip
        timeouts = {"linger_s": 0} | sections.pop("timeouts", {})
        super().__init__(models={"demo": self.model}, timeouts=timeouts, env=env or {}, **sections)
        self.backend = backend
        self._groups: set[int] = set()
        self._shm_before = set(os.listdir("/dev/shm"))

    def survivors(self) -> list[int]:
        """Engines overwrite their environment with their titles: theirs are found by the worker's process group."""
        self._groups |= set(self.pids().values())
        found = set(super().survivors())
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                if os.getpgid(process.pid) in self._groups - {0} and process.status() != psutil.STATUS_ZOMBIE:
                    found.add(process.pid)
        return sorted(found)

    def engine_processes(self) -> dict[str, psutil.Process]:
        """By title, those that live."""
        found: dict[str, psutil.Process] = {}
        try:
            worker = psutil.Process(self.worker_pid)
        except (KeyError, psutil.NoSuchProcess):  # the launcher, or the worker, is not there yet
            return found
        self._groups.add(worker.pid)
        for child in worker.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                title = " ".join(child.cmdline()).strip()
                if title.startswith(TITLES[self.backend]):
                    found[next(name for name in TITLES[self.backend] if title.startswith(name))] = child
        return found

    def wait_ready(self, limit_s: float = 120) -> RealLauncher:
        self.wait_for(lambda: self.get("/readyz")[0] == 200, limit_s)
        self.engine_processes()
        return self

    def assert_nothing_left(self, limit_s: float = 3) -> None:
        super().assert_nothing_left(limit_s)
        left = {name for name in os.listdir("/dev/shm") if Path("/dev/shm", name).is_file()} - self._shm_before
        # What a living process holds is not ours any more, since none of ours lives.
        assert not left or not (left - held_shared_memory()), left

    @property
    def headers(self) -> dict[str, str]:
        key = {"Authorization": f"Bearer {self._env['ICHAT_API_KEY']}"} if "ICHAT_API_KEY" in self._env else {}
        return {"Content-Type": "application/json"} | key

    def complete(self, prompt: str = "Hello", **asked: Any) -> tuple[int, dict[str, Any]]:
        """(status, JSON) of a plain completion; (0, {}) when the connection broke."""
        body = {"model": "demo", "prompt": prompt, "max_tokens": 4, "temperature": 0} | asked
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("POST", "/v1/completions", json.dumps(body), self.headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        except (OSError, http.client.HTTPException):
            return 0, {}
        finally:
            connection.close()


def held_shared_memory() -> set[str]:
    """Names of the shared memory that any process has mapped or open."""
    held: set[str] = set()
    for pid in psutil.pids():
        with contextlib.suppress(OSError):
            held |= set(re.findall(r"/dev/shm/(\S+)", Path(f"/proc/{pid}/maps").read_text(errors="replace")))
            for entry in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    held.add(str(entry.readlink()).removeprefix("/dev/shm/"))
    return held


class Served(Protocol):
    """Who answers on a port of this machine: a launcher, or a container."""

    backend: str

    @property
    def port(self) -> int: ...
    @property
    def headers(self) -> dict[str, str]: ...


class Stream(threading.Thread):
    """A streamed completion of so many tokens (0: long enough to be interrupted), and how it ended."""

    def __init__(self, launcher: Served, tokens: int = 0) -> None:
        super().__init__(daemon=True)
        self._port, self._headers, self._tokens = launcher.port, launcher.headers, tokens or LONG[launcher.backend]
        self.status, self.text, self.ended_at, self.error = 0, b"", 0.0, ""
        self.began = threading.Event()
        self.start()

    def run(self) -> None:
        body = {"model": "demo", "prompt": "Hello", "max_tokens": self._tokens, "temperature": 0, "stream": True,
                "ignore_eos": True}  # fmt: skip
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=120)
        try:
            connection.request("POST", "/v1/completions", json.dumps(body), self._headers)
            answer = connection.getresponse()
            self.status = answer.status
            while data := answer.read1(65536):
                self.text += data
                self.began.set()
        except (OSError, http.client.HTTPException) as error:
            self.error = repr(error)
        self.ended_at = time.monotonic()
        self.began.set()
        connection.close()

    @property
    def events(self) -> list[bytes]:
        return [event.removeprefix(b"data: ") for event in self.text.split(b"\n\n") if event]

    @property
    def is_complete(self) -> bool:
        """It came to its own end: a finish reason, then [DONE], and no error."""
        return (
            self.status == 200 and not self.error and self.events[-1] == b"[DONE]" and b'data: {"error"' not in self.text
            and any(json.loads(event)["choices"][0]["finish_reason"] for event in self.events[-3:-1]
                    if json.loads(event).get("choices"))
        )  # fmt: skip

    @property
    def error_code(self) -> str:
        """The code of the error that ended it honestly: an event of its own before [DONE], or an error answer."""
        if self.status != 200:
            return str(json.loads(self.text)["error"]["code"])
        assert not self.error, self.error
        assert self.events[-1] == b"[DONE]"
        return str(json.loads(self.events[-2])["error"]["code"])


@contextlib.contextmanager
def load(launcher: RealLauncher, streams: int = 4, tokens: int = 0) -> Iterator[list[Stream]]:
    """So many streams, all of which have begun."""
    running = [Stream(launcher, tokens) for _ in range(streams)]
    for stream in running:
        assert stream.began.wait(30)
    yield running
    for stream in running:
        stream.join(60)
        assert not stream.is_alive(), "a stream got neither data nor an end"


class Readiness(threading.Thread):
    """Polls ``/readyz`` every 10 ms and remembers when it changed."""

    def __init__(self, launcher: RealLauncher) -> None:
        super().__init__(daemon=True)
        self._launcher, self._over = launcher, threading.Event()
        self.seen: list[tuple[float, int]] = []
        self.start()

    def run(self) -> None:
        while not self._over.wait(0.01):
            status = self._launcher.get("/readyz", timeout_s=2)[0]
            self.seen.append((time.monotonic(), status))

    def stop(self) -> None:
        self._over.set()
        self.join(5)

    def first_green(self) -> float | None:
        return next((at for at, status in self.seen if status == 200), None)

    def green_after(self, moment: float) -> list[float]:
        """How long after the moment it was still green, or again."""
        return [at - moment for at, status in self.seen if status == 200 and at > moment]
