"""The worker's side of the admin port: each command is passed to the backend, and answered with an HTTP status."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol

from ichat.backends.engine_control import CommandError
from ichat.errors import IchatError
from ichat.ipc.messages import Control, ControlDone

log = logging.getLogger(__name__)


class Controlled(Protocol):
    """What is commanded: a backend."""

    async def listen_again(self) -> None: ...

    async def control(self, action: str, arguments: dict[str, Any]) -> dict[str, Any]: ...


class Commands:
    """The loop goes on turning while a command is obeyed. Which one may follow which the backend knows."""

    def __init__(self, backend: Controlled, send: Callable[[ControlDone], None]) -> None:
        self._backend, self._send = backend, send
        self._running: set[asyncio.Task[None]] = set()

    def begin(self, command: Control) -> None:
        """Obey it; its ControlDone follows."""
        task = asyncio.create_task(self._obey(command), name=f"command {command.action}")
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def listen_again(self) -> None:
        """The server's socket is gone: have another one made. The launcher sees whether it is there."""
        task = asyncio.create_task(self._listen_again(), name="listen again")
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _listen_again(self) -> None:
        try:
            await self._backend.listen_again()
        except OSError as error:
            log.error("worker: its socket cannot be made again (%s)", error)

    def close(self) -> None:
        """The worker leaves: what is still at work gets no answer from us."""
        for task in self._running:
            task.cancel()

    async def _obey(self, command: Control) -> None:
        try:
            done = ControlDone(command.number, 200, await self._backend.control(command.action, command.arguments))
        except CommandError as error:
            done = _refusal(command, error.status, error.code, str(error))
        except IchatError as error:
            done = _refusal(command, 502, error.code, str(error))
        except Exception as error:  # the engine's own words, whatever they are: who commands it may read them
            log.exception("%s: failed", command.action)
            words = (str(error).strip().splitlines() or ["without a word"])[0][:300]
            done = _refusal(command, 502, CommandError.code, f"{command.action}: {type(error).__name__}: {words}")
        self._send(done)


def _refusal(command: Control, status: int, code: str, words: str) -> ControlDone:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return ControlDone(command.number, status, {"error": {"message": words, "type": kind, "code": code}})
