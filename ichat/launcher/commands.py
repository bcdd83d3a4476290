"""Commands to one life of a worker: one at a time, each with an answer, also when the worker dies over it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ichat.ipc.messages import Control, ControlDone

#: The worker keeps the limit itself, and knows better what became of the engine; this long it may take to tell.
_WORKERS_OWN_S = 2.0


class Commands:
    """Numbers the commands and finds the answer to each. All methods belong to one event loop.

    ``ask`` always returns an answer: the worker's own, or 409 (busy with another one), 504 (not within the limit),
    502 (the worker died over it), 503 (there is no worker). A command that ran out of time is still at work: until
    its answer has come the next one gets 409.
    """

    def __init__(self, send: Callable[[Control], None]) -> None:
        self._send = send
        self._number = 0
        self._action = ""
        self._at_work: asyncio.Future[ControlDone] | None = None
        self._over: str | None = None

    async def ask(self, action: str, arguments: dict[str, Any], limit_s: float) -> ControlDone:
        if self._over is not None:
            return _error(self._number, 503, "no_worker", f"{action}: {self._over}. Wait until it is ready.")
        if self._at_work is not None:
            words = f"{action}: {self._action} is still at work. Ask again when it is done."
            return _error(self._number, 409, "busy", words)
        self._number, self._action = self._number + 1, action
        answer: asyncio.Future[ControlDone] = asyncio.get_running_loop().create_future()
        self._at_work = answer
        self._send(Control(self._number, action, arguments))
        await asyncio.wait({answer}, timeout=limit_s + _WORKERS_OWN_S)
        if answer.done():
            return answer.result()
        words = f"{action}: not done within {limit_s:.0f} s (timeouts.control_s); it is still at work."
        return _error(self._number, 504, "control_timeout", words)

    def answer(self, done: ControlDone) -> None:
        """The worker has answered. An answer to a command of which nobody knows is ignored."""
        if done.number == self._number:
            self._settle(done)

    def fail_all(self, words: str) -> None:
        """The worker is lost, as ``words`` say: nothing will be answered any more. Harmless when repeated."""
        self._over = self._over or words
        self._settle(_error(self._number, 502, "worker_lost", f"{self._action}: {words}"))

    def _settle(self, done: ControlDone) -> None:
        if self._at_work is not None:
            self._at_work.set_result(done)
            self._at_work = None


def no_worker(words: str) -> Commands:
    """Those of an instance that has no worker yet, as ``words`` say: every command gets 503."""

    def send(control: Control) -> None:
        raise AssertionError(f"{control.action} was sent to nobody")

    commands = Commands(send)
    commands.fail_all(words)
    return commands


def _error(number: int, status: int, code: str, message: str) -> ControlDone:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return ControlDone(number, status, {"error": {"message": message, "type": kind, "code": code}})
