"""One life of one child, from its start to its end: what it says, what it does not say, and how it ended."""

from __future__ import annotations

import abc
import asyncio
from collections.abc import Callable
from typing import Protocol

from ichat.config.schema import Timeouts
from ichat.ipc import messages
from ichat.ipc.messages import Message
from ichat.launcher.liveness import Liveness
from ichat.launcher.process import Exit
from ichat.launcher.restarts import Ending
from ichat.system import activity

#: What a dead child said last is still on its way to us for so long, at most.
_LAST_WORDS_S = 0.2
#: A child that closed its end of the channel is leaving; one that lives on after that is broken.
_LEAVING_S = 5.0


class ChildProcess(Protocol):
    """A started child, as its life sees it."""

    pid: int
    ended: asyncio.Future[Exit]

    async def receive(self) -> Message | None:
        """The next message; None when there will be none any more."""

    def send(self, message: Message) -> None:
        """Harmless when the child has gone."""

    def terminate(self) -> None:
        """Ask it to finish what it holds and leave."""

    async def bury(self) -> None:
        """Kill and free all that is left of it. Harmless when repeated."""


class Life(abc.ABC):
    """``follow()`` returns when the child has died, hangs, or did not become ready within ``start_s``."""

    #: What it is called in words: worker, front.
    kind: str

    def __init__(self, process: ChildProcess, timeouts: Timeouts, start_s: float) -> None:
        self.process = process
        self.was_ready = False
        self._timeouts, self._start_s = timeouts, start_s
        self._over: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        # Its loop runs in its first thread.
        self._liveness = Liveness(process.send, self, timeouts, lambda: activity.of_thread(process.pid, process.pid))
        self._watching: asyncio.Task[None] | None = None
        self._also_watching: list[asyncio.Task[None]] = []  # what a kind of child has beside
        self._once_ready: Callable[[], None] = lambda: None

    # ---- what a kind of child fills in ------------------------------------------------------------------------

    @abc.abstractmethod
    def take(self, message: Message) -> None:
        """A message has come."""

    @abc.abstractmethod
    def suspect(self) -> None:
        """Its loop does not answer: not ready."""

    @abc.abstractmethod
    def clear(self) -> None:
        """It answers after all."""

    @abc.abstractmethod
    def stuck(self) -> Ending:
        """It was not ready in time."""

    @abc.abstractmethod
    def died(self, ended: Exit) -> None:
        """Called the moment it has died."""

    @abc.abstractmethod
    def explain(self, ended: Exit) -> Ending:
        """Called a little later, when its last words have come."""

    # ---- for the supervisor -----------------------------------------------------------------------------------

    @property
    def words(self) -> str:
        return f"{self.kind} (pid {self.process.pid})"

    def once_ready(self, callback: Callable[[], None]) -> None:
        """Call it when the child has become ready; one that never does calls nothing."""
        self._once_ready = callback

    def become_ready(self) -> None:
        """From now on it must answer. Harmless when repeated."""
        if not self.was_ready:
            self.was_ready = True
            self._once_ready()
            self._watching = asyncio.create_task(self._liveness.watch(), name=f"liveness of {self.words}")
            self._watching.add_done_callback(self._hangs)

    async def follow(self) -> Ending:
        loop = asyncio.get_running_loop()
        hearing = loop.create_task(self._hear(), name=f"hear {self.words}")
        hearing.add_done_callback(self._pass_on_bug)
        limit = loop.call_later(self._start_s, self._is_late)
        self.process.ended.add_done_callback(self._has_died)
        try:
            return await self._over
        finally:
            limit.cancel()
            self.process.ended.remove_done_callback(self._has_died)
            tasks = [task for task in (hearing, self._watching, *self._also_watching) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    # ---- how it ends ------------------------------------------------------------------------------------------

    async def _hear(self) -> None:
        while (message := await self.process.receive()) is not None:
            if isinstance(message, messages.Pong):
                self._liveness.answer(message.number)
            else:
                self.take(message)
        await asyncio.wait({self.process.ended}, timeout=_LEAVING_S)
        if not self.process.ended.done():
            self._end(Ending(f"{self.words} closed its channel and did not leave, killed"))
        self._has_ended()

    def _has_died(self, ended: asyncio.Future[Exit]) -> None:
        """A fork of the engine may hold the channel open, so its end is not waited for."""
        self.died(ended.result())
        asyncio.get_running_loop().call_later(_LAST_WORDS_S, self._has_ended)

    def _has_ended(self) -> None:
        if self.process.ended.done() and not self._over.done():
            self._end(self.explain(self.process.ended.result()))

    def _hangs(self, watching: asyncio.Task[None]) -> None:
        if not watching.cancelled():
            limit_s = self._timeouts.probe_limit_s
            self._end(Ending(f"{self.words} has not answered for {limit_s:.0f} s, killed", code="E-HANG"))

    def _is_late(self) -> None:
        if not self.was_ready:
            self._end(self.stuck())

    def _end(self, ending: Ending) -> None:
        if not self._over.done():
            self._over.set_result(ending)

    def _pass_on_bug(self, hearing: asyncio.Task[None]) -> None:
        if not hearing.cancelled() and (error := hearing.exception()) is not None and not self._over.done():
            self._over.set_exception(error)
