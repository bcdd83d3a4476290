"""The uvicorn that serves an engine's app: without its signal handlers, and with a drain that can be hurried."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import uvicorn

from ichat.errors import EngineError
from ichat.ipc.socket_question import ANSWER, QUESTION

log = logging.getLogger(__name__)

_POLL_S = 0.02  # uvicorn's flags have no event to wait for


class _SilentServer(uvicorn.Server):
    """Leaves the signals to the worker."""

    async def startup(self, sockets: list[Any] | None = None) -> None:
        self.config.http_protocol_class = _answering(self.config.http_protocol_class)
        await super().startup(sockets)

    async def listen_again(self, path: str) -> None:
        """On a new socket beside the one that nobody finds any more."""
        make: Any = self.config.http_protocol_class

        def connect() -> Any:
            return make(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

        Path(path).unlink(missing_ok=True)
        self.servers.append(await asyncio.get_running_loop().create_unix_server(connect, path))

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def _answering(protocol: Any) -> Any:
    """The same, which also answers the launcher's question: without the app, its keys and its log of requests."""

    class Answering(protocol):  # type: ignore[misc]
        def data_received(self, data: bytes) -> None:
            if data == QUESTION:
                self.transport.write(ANSWER)
                self.transport.close()
            else:
                super().data_received(data)

    return Answering


class HTTPServer:
    """One app on one unix socket.

    ``on_end`` is called when the server ends although nobody asked it to: an engine's exception handlers can do
    that. In this order: ``start`` → (``drain`` | ``abort``); both of the latter are harmless when repeated.
    """

    def __init__(self, config: uvicorn.Config, socket_path: str, on_end: Callable[[str], None]) -> None:
        config.uds = socket_path
        config.timeout_graceful_shutdown = None  # drain() keeps the deadline
        self.server = _SilentServer(config)
        self._socket_path, self._on_end = socket_path, on_end
        self._task: asyncio.Task[None] | None = None
        self._is_leaving = False

    async def start(self, sockets: list[Any] | None = None) -> None:
        """Accepts requests when it returns. EngineError: the app's lifespan failed."""
        self._task = asyncio.create_task(self._serve(sockets), name="http-server")
        while not self.server.started:
            if self._task.done():
                await self._task  # raises what went wrong
                raise EngineError("the engine's app ended while it started")
            await asyncio.sleep(_POLL_S)
        self._close_to_others()
        self._task.add_done_callback(self._ended)

    async def listen_again(self) -> None:
        """Its socket was deleted. OSError: it cannot be made again. Connections go on; harmless while it leaves."""
        if not self._is_leaving:
            await self.server.listen_again(self._socket_path)
            self._close_to_others()

    def _close_to_others(self) -> None:
        """uvicorn opens it to all users, where nothing but its directory would keep them away."""
        with contextlib.suppress(FileNotFoundError):
            Path(self._socket_path).chmod(0o600)

    async def _serve(self, sockets: list[Any] | None) -> None:
        try:
            await self.server.serve(sockets=sockets)
        except SystemExit as exit_:  # uvicorn's way to say that the lifespan failed; it would end our loop
            raise EngineError(f"the engine's app could not start (exit {exit_.code}); see the log above") from None

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not self._is_leaving:
            error = None if task.cancelled() else task.exception()
            self._on_end(f"the engine's HTTP server ended by itself{f': {error}' if error else ''}")

    @property
    def is_running(self) -> bool:
        return self._task is not None and not self._task.done()

    async def drain(self, deadline: float, in_flight: Callable[[], int]) -> bool:
        """Accept nothing more, let requests finish until ``deadline`` (monotonic). True: none was cut off."""
        if self._task is None:
            return True
        self._is_leaving = True
        self.server.should_exit = True
        while not self._task.done():
            if time.monotonic() >= deadline:
                await self.abort()
                return False
            # A background task of an answer that has long been sent (SGLang sleeps 2 s in one) keeps nobody waiting.
            if not self.server.server_state.connections and not in_flight():
                for task in list(self.server.server_state.tasks):
                    task.cancel()
            await asyncio.wait({self._task}, timeout=_POLL_S)
        self._remove_socket()
        return True

    async def abort(self) -> None:
        """Cut every connection."""
        if self._task is None:
            return
        self._is_leaving = True
        self.server.force_exit = self.server.should_exit = True
        for connection in list(self.server.server_state.connections):
            transport = getattr(connection, "transport", None)
            if transport is not None:
                transport.abort()
        self._task.cancel()
        await asyncio.wait({self._task}, timeout=1)
        self._remove_socket()

    def _remove_socket(self) -> None:
        Path(self._socket_path).unlink(missing_ok=True)
