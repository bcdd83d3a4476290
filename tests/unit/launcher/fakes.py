"""A child process that a test plays: what it says, whether it answers, and how it ends."""

from __future__ import annotations

import asyncio
from itertools import count

from ichat.config.schema import Model, Restarts, Settings, Timeouts
from ichat.ipc import messages
from ichat.ipc.messages import Message
from ichat.launcher.process import Exit
from ichat.launcher.socket_probe import Outcome

_pids = count(1000)


def settings(*, restarts: Restarts | None = None, **timeouts: float) -> Settings:
    model = Model(name="demo", model_path="models/demo", backend="fake")
    return Settings(models=(model,), restarts=restarts or Restarts(), timeouts=Timeouts(**timeouts))  # type: ignore[arg-type]


class FakeProcess:
    """Answers pings while ``is_answering``; leaves ``leaves_after_s`` after SIGTERM, never when None."""

    def __init__(self, *, leaves_after_s: float | None = 0.0) -> None:
        self.pid = next(_pids)
        self.incarnation, self.socket_path = f"incarnation-{self.pid}", f"/run/{self.pid}.sock"
        self.ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self.sent: list[Message] = []
        self.shm: list[str] = []
        self.is_answering = True
        self.burials = 0
        self.was_terminated = False
        self.hint = ""
        self.reach: Outcome = "answers"  # through its socket
        self._leaves_after_s = leaves_after_s
        self._said: asyncio.Queue[Message | None] = asyncio.Queue()

    # ---- what a test does -------------------------------------------------------------------------------------

    def say(self, *said: Message) -> None:
        for message in said:
            self._said.put_nowait(message)

    def end(self, ended: Exit) -> None:
        if not self.ended.done():
            self.ended.set_result(ended)
            self._said.put_nowait(None)

    def end_by_kill(self) -> None:
        self.end(Exit(None, 9))

    def stop_answering(self) -> None:
        self.is_answering = False

    def become_ready(self, *names: str) -> None:
        self.say(messages.WorkerReady(list(names or ("demo",)), ["generate"]))

    # ---- what a life uses -------------------------------------------------------------------------------------

    async def receive(self) -> Message | None:
        return await self._said.get()

    def send(self, message: Message) -> None:
        self.sent.append(message)
        if isinstance(message, messages.Ping) and self.is_answering:
            self.say(messages.Pong(message.number))

    async def ask(self) -> Outcome:
        return self.reach

    def terminate(self) -> None:
        self.was_terminated = True
        if self._leaves_after_s is not None:
            asyncio.get_running_loop().call_later(self._leaves_after_s, self.end, Exit(0, None))

    async def bury(self) -> None:
        self.burials += 1
        self.end(Exit(None, 9))

    def remember(self, shm: list[str]) -> None:
        self.shm = shm

    def explain(self, ended: Exit | None) -> str:
        return self.hint if ended is None else ended.words + self.hint
