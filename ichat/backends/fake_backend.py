"""A scripted engine without a GPU or torch: fails, hangs and dies on request, in fractions of a second.

It stands behind the same contract and lifecycle as the real engines, so that what takes them minutes can be
repeated thousands of times. Its processes are real ones, which a test may stop or kill.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import time
from io import FileIO
from multiprocessing import shared_memory
from typing import Any, Literal

import uvicorn
from pydantic import NonNegativeFloat, NonNegativeInt

from ichat.backends.base_backend import BaseBackend
from ichat.backends.fake_app import FakeApp
from ichat.backends.fake_control import FakeControl
from ichat.backends.http_server import HTTPServer
from ichat.backends.warm_up import request_once
from ichat.config.schema import Schema
from ichat.errors import EngineError, ExitCode, IchatError

_POLL_S = 0.02
_COMPILER_S = 0.7
_KEEP_ALIVE_S = 600


class Script(Schema):
    """What the fake engine does: the `engine_args` of a model with `backend: fake`."""

    processes: NonNegativeInt = 1
    load_s: NonNegativeFloat = 0  # how long `weights` takes
    compilers: NonNegativeInt = 0  # that run in `weights`, one after the other, long enough to be seen
    token_s: NonNegativeFloat = 0  # before each word
    fail_in: Literal["never", "arguments", "weights", "server", "warm-up"] = "never"
    fail_with: ExitCode = ExitCode.ENGINE
    hang_in: Literal["never", "weights", "warm-up"] = "never"
    die_after_s: NonNegativeFloat | None = None  # after the start: one process ends
    stop_takes_s: NonNegativeFloat = 0
    shm_bytes: NonNegativeInt = 0  # shared memory that it never unlinks by itself
    tag: str = ""  # comes back in every answer, as `system_fingerprint`
    notes: str | None = None  # a file: a line when a completion begins, and one when it ends, with the time
    command_s: NonNegativeFloat = 0  # how long a command of the admin port takes
    not_supported: tuple[str, ...] = ()  # commands that it cannot obey
    fails_at: tuple[str, ...] = ()  # commands that end in an unforeseen error


class FakeBackend(BaseBackend):
    """See the module."""

    vital_processes = re.compile(r"^FAKE::")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._script: Script | None = None
        self._children: list[subprocess.Popen[bytes]] = []
        self._shm: shared_memory.SharedMemory | None = None
        self._commands: FakeControl | None = None
        self._notes: FileIO | None = None
        self._words = 0
        served = (self.framework_args.model.served_name, self.framework_args.instance)
        self._app = FakeApp(served, self._wait_for_token, self.engine_control, self._note)

    def get_backend_args(self) -> Script:
        if self._script is None:
            raise RuntimeError("the fake engine's arguments are not parsed yet")
        return self._script

    def engine_control(self) -> FakeControl:
        if self._commands is None:
            raise RuntimeError("the fake engine has not been started yet")
        return self._commands

    def tasks(self) -> list[str]:
        return ["generate"]

    async def parse(self) -> None:
        self._script = Script.model_validate(self.framework_args.model.engine_args)
        self._app.tag = self._script.tag
        if self._script.notes is not None:
            self._notes = FileIO(self._script.notes, "a")
        self.news.phase("arguments")
        await self._reach("arguments")

    async def start_engine(self) -> None:
        script = self.get_backend_args()
        name = self.framework_args.model.served_name
        self._commands = FakeControl(name, script, lambda: self._app.running)
        for number in range(script.processes):
            title = f"FAKE::Engine/{number}"
            self._children.append(subprocess.Popen([title, "100000"], executable="/bin/sleep"))
        if script.shm_bytes:
            self._shm = shared_memory.SharedMemory(create=True, size=script.shm_bytes)
        for _ in range(script.compilers):
            compiler = subprocess.Popen(["ptxas", str(_COMPILER_S)], executable="/bin/sleep")
            await asyncio.to_thread(compiler.wait)
        await asyncio.sleep(script.load_s)
        await self._reach("weights")
        if script.die_after_s is not None and self._children:
            asyncio.get_running_loop().call_later(script.die_after_s, self._children[0].kill)

    async def start_server(self) -> HTTPServer:
        await self._reach("server")
        config = uvicorn.Config(
            self._app, lifespan="off", log_level="warning", access_log=False, timeout_keep_alive=_KEEP_ALIVE_S
        )
        server = HTTPServer(config, self.framework_args.socket_path, self.fail)
        await server.start()
        return server

    async def warm_up(self) -> None:
        await self._reach("warm-up")
        body = {"model": "fake", "prompt": "Hi", "max_tokens": 1}
        await request_once(self.framework_args.socket_path, "/v1/completions", body, None)

    async def check_answer(self) -> None:
        await self.warm_up()

    async def probe(self, rank: int) -> None:
        del rank
        while self.processes.stopped():
            await asyncio.sleep(_POLL_S)

    def in_flight(self) -> int:
        return self._app.in_flight

    def progress(self) -> int:
        return self._words

    async def stop_engine(self) -> None:
        await asyncio.sleep(self.get_backend_args().stop_takes_s)
        for child in self._children:
            child.terminate()
        for child in self._children:
            await asyncio.to_thread(child.wait)
        if self._notes is not None:
            self._notes.close()

    def _note(self, user: str, what: str) -> None:
        if self._notes is not None and not self._notes.closed:  # one call a line: several workers may write one file
            self._notes.write(f"{user} {what} {time.monotonic()}\n".encode())

    async def _reach(self, phase: str) -> None:
        script = self.get_backend_args()
        if script.fail_in == phase:
            raise IchatError(f"the script fails in {phase}", code="E-FAKE", exit_code=script.fail_with)
        if script.hang_in == phase:
            await asyncio.Event().wait()

    async def _wait_for_token(self) -> None:
        await asyncio.sleep(self.get_backend_args().token_s)
        self._words += 1
        if self._failure is not None:
            raise EngineError("the engine has died")
        while self.processes.stopped():
            await asyncio.sleep(_POLL_S)
