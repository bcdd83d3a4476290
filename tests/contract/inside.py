"""Runs one backend from its first to its last promise, in the environment of its engine, and prints what it saw as JSON.

A program and not a test, because an engine's environment has no pytest: test_backend.py starts it and judges.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import locale
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import psutil

from ichat.backends import load_backend, start_method
from ichat.backends.base_backend import BaseBackend
from ichat.backends.framework_args import FrameworkArgs
from ichat.backends.warm_up import request_once
from ichat.config.schema import Model, Timeouts
from ichat.worker.argv import backend_argv


class News:
    """Writes down what the backend tells."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.shm: set[str] = set()

    def phase(self, phase: str) -> None:
        self.heard.append(phase)

    def suspect(self, words: str) -> None:
        self.heard.append("suspect")

    def recovered(self) -> None:
        self.heard.append("recovered")

    def resting(self, words: str) -> None:
        self.heard.append("resting")

    def ready(self) -> None:
        self.heard.append("ready")

    def stopping(self, in_flight: int) -> None:
        self.heard.append("stopping")

    def compiling(self, running: int, done: int) -> None: ...

    def residue(self, shm: list[str]) -> None:
        self.shm |= set(shm)


def surroundings() -> dict[str, Any]:
    """What belongs to the worker and no engine may change."""
    umask = os.umask(0)
    os.umask(umask)
    ours = logging.getLogger("ichat")
    return {
        "signals": {s.name: str(signal.getsignal(s)) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGCHLD)},
        "mask": sorted(str(s) for s in signal.pthread_sigmask(signal.SIG_BLOCK, set())),
        "wakeup": signal.set_wakeup_fd(wakeup := signal.set_wakeup_fd(-1)) and wakeup,
        "cwd": os.getcwd(),
        "umask": umask,
        "locale": locale.setlocale(locale.LC_ALL),
        "handlers": [str(type(handler)) for handler in ours.handlers],
        "propagate": ours.propagate,
        "level": ours.level,
    }  # fmt: skip


def plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | None) else str(value)


async def progress_of_a_long_prompt(backend: BaseBackend) -> tuple[int, int]:
    """How often one request with a prompt of many pieces, and one token as its answer, was seen to get further."""
    body = {"model": "demo", "prompt": "Hello you " * 100, "max_tokens": 1, "temperature": 0}
    asking = asyncio.create_task(request_once(backend.framework_args.socket_path, "/v1/completions", body, None))
    seen: list[object] = [backend.progress()]
    owed = 0
    while not asking.done():
        await asyncio.sleep(0.001)
        owed = max(owed, backend.owed_tokens())
        if (now := backend.progress()) != seen[-1]:
            seen.append(now)
    await asking
    return len(seen) - 1, owed


async def main(settings: dict[str, Any], directory: Path, arguments: list[str]) -> dict[str, Any]:
    news, ready = News(), asyncio.Event()
    ours = logging.getLogger("ichat")
    ours.addHandler(logging.StreamHandler(sys.stderr))
    ours.propagate = False
    args = FrameworkArgs(
        instance="demo/0", model=Model(**settings), timeouts=Timeouts(), socket_path=str(directory / "http.sock"),
        tmp_dir=str(directory / "tmp"), accelerator="cpu", news=news,
    )  # fmt: skip
    backend = load_backend(args.model.backend)(args, backend_argv(args), ready)
    seen: dict[str, Any] = {"ready_before": ready.is_set()}
    with contextlib.suppress(RuntimeError):
        backend.get_backend_args()
        seen["args_too_early"] = True
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, backend.request_stop)
    loop.add_signal_handler(signal.SIGQUIT, backend.fail, "SIGQUIT")
    before = surroundings()
    running = asyncio.create_task(backend.run())
    waiting = asyncio.create_task(backend.wait_for_server_ready())
    await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        await running
    for _ in range(2):
        await asyncio.wait_for(backend.probe(0), 10)
    seen["progress"], seen["owed"] = await progress_of_a_long_prompt(backend)
    seen |= {
        "before": before,
        "after": surroundings(),
        "phases": list(news.heard),
        "is_loop_running_ours": asyncio.get_running_loop() is loop,
        "vital": backend.processes.vital,
        "in_flight": backend.in_flight(),
        "tasks": backend.tasks(),
        "tokens": backend.tokens(),
        "args": {name: plain(getattr(backend.get_backend_args(), name)) for name in arguments},
        "main_thread_free": threading.current_thread() is threading.main_thread(),
    }
    os.kill(os.getpid(), signal.SIGTERM)  # reaches us although the engine has served a request
    await running
    await asyncio.gather(backend.cleanup(), backend.cleanup())
    await backend.cleanup()
    return seen | {
        "ready_after": ready.is_set(),
        "children": [child.name() for child in psutil.Process().children(recursive=True)],
        "socket": (directory / "http.sock").exists(),
        "files": os.listdir(directory / "tmp"),
        "shm_seen": len(news.shm),
        "shm_left": [path for path in news.shm if os.path.exists(path)],
    }


if __name__ == "__main__":
    start_method.adopt_orphans()
    start_method.guard_forks()
    import uvloop

    outcome = uvloop.run(main(json.loads(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
    print("OUTCOME " + json.dumps(outcome), flush=True)
    os._exit(0)
