"""A real worker process, driven as the launcher drives it, for tests and for trying things by hand."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ichat.config.schema import Model, Timeouts
from ichat.ipc import messages
from ichat.ipc.channel import Channel, pair

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "models" / "demo"


def python_of(backend: str) -> Path:
    """The interpreter of the environment that holds the engine; the fake engine lives in our own.

    A backend with a version at its end (``sglang-0.5.23``) is the engine in that version.
    """
    return Path(sys.executable) if backend == "fake" else ROOT / ".venvs" / backend / "bin" / "python"


def model(backend: str, **settings: Any) -> Model:
    """The demo model on a backend, as lean as a test wants it."""
    engine_args: dict[str, Any] = {"vllm": {"enforce-eager": True}}.get(backend, {})
    defaults = {"name": "demo", "model_path": str(DEMO), "context_length": 1024, "engine_args": engine_args}
    return Model(backend=backend, **(defaults | settings))  # type: ignore[arg-type]


class WorkerProcess:
    """``async with`` one; afterwards nothing of it is left."""

    def __init__(
        self,
        model: Model,
        *,
        timeouts: Timeouts | None = None,
        api_key: str | None = None,
        stderr: Any = None,
        python: Path | None = None,
    ):
        self.model, self.timeouts, self.api_key = model, timeouts or Timeouts(), api_key
        self.messages: list[tuple[float, messages.Message]] = []
        self.started_at = 0.0
        self._arrived = asyncio.Event()
        self._commands = 0
        self._stderr = stderr
        self._python = python or python_of(model.backend)

    async def __aenter__(self) -> WorkerProcess:
        self._dir = tempfile.TemporaryDirectory(prefix="ichat-")
        self.run_dir = Path(self._dir.name)
        self.socket_path, self.tmp_dir = str(self.run_dir / "http.sock"), str(self.run_dir / "tmp")
        os.mkdir(self.tmp_dir)
        ours, theirs = pair()
        self.started_at = time.monotonic()
        self.process = await asyncio.create_subprocess_exec(
            self._python, "-m", "ichat.worker", "--control-fd", str(theirs.fileno()),
            pass_fds=[theirs.fileno()], env=self._environment(), process_group=0, stderr=self._stderr,
            stdout=self._stderr, cwd=self.run_dir,
        )  # fmt: skip
        theirs.close()
        self.channel = await Channel.open(ours)
        self.channel.send(
            messages.StartWorker(
                instance="demo/0", incarnation="1", model=self.model.model_dump(mode="json"),
                timeouts=self.timeouts.model_dump(mode="json"), socket_path=self.socket_path, tmp_dir=self.tmp_dir,
                accelerator="cpu", api_key=self.api_key,
            )
        )  # fmt: skip
        self._listener = asyncio.create_task(self._listen())
        return self

    def _environment(self) -> dict[str, str]:
        # Engines as on a small machine: little memory, and the threads that vLLM would take itself.
        ours = {"TMPDIR": self.tmp_dir, "VLLM_RPC_BASE_PATH": self.tmp_dir, "OMP_NUM_THREADS": "1",
                "VLLM_NO_USAGE_STATS": "1", "ICHAT_PDEATHSIG": "1"}  # fmt: skip
        return os.environ | ours | self.model.env

    async def _listen(self) -> None:
        async for message in self.channel:
            self.messages.append((time.monotonic(), message))
            self._arrived.set()

    def last(self, kind: type[Any]) -> Any:
        """The last message of a kind, or None."""
        return next((message for _, message in reversed(self.messages) if isinstance(message, kind)), None)

    async def until(self, kind: type[Any], timeout_s: float = 120) -> Any:
        """Wait for a message of a kind. AssertionError when the worker ends first."""
        async with asyncio.timeout(timeout_s):
            while (found := self.last(kind)) is None:
                ended = asyncio.ensure_future(self.process.wait())
                arrived = asyncio.ensure_future(self._arrived.wait())
                await asyncio.wait([ended, arrived], return_when=asyncio.FIRST_COMPLETED)
                self._arrived.clear()
                arrived.cancel()
                if ended.done() and not arrived.done():
                    await self._listener
                    found = self.last(kind)
                    assert found, f"worker ended with {ended.result()}: {self.messages}"
                    break
                ended.cancel()
        return found

    async def command(self, action: str, timeout_s: float = 60, **arguments: Any) -> messages.ControlDone:
        """What the worker answers to a command of the admin port."""
        self._commands += 1
        number = self._commands
        self.channel.send(messages.Control(number, action, arguments))
        async with asyncio.timeout(timeout_s):
            while True:
                for _, message in self.messages:
                    if isinstance(message, messages.ControlDone) and message.number == number:
                        return message
                self._arrived.clear()
                await self._arrived.wait()

    async def end(self, timeout_s: float = 60) -> int:
        """Wait for the worker's end; its exit code."""
        async with asyncio.timeout(timeout_s):
            code = await self.process.wait()
            await self._listener
        return code

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    async def __aexit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        self._listener.cancel()
        self.channel.close()
        self._dir.cleanup()
