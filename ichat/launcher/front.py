"""The front process: started on sockets that outlive it, told the routes, and drained at the end."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Callable, Sequence

from ichat.config.schema import Settings, Timeouts
from ichat.errors import ExitCode
from ichat.ipc import channel, messages
from ichat.ipc.channel import Channel
from ichat.ipc.messages import Message
from ichat.launcher import environment
from ichat.launcher.board import Board
from ichat.launcher.life import ChildProcess, Life
from ichat.launcher.process import Exit
from ichat.launcher.restarts import Ending
from ichat.launcher.workers import Ground

log = logging.getLogger(__name__)

_CODE = "E-FRONT-DIED"
#: A front imports little and binds nothing.
_START_S = 20.0


class FrontProcess:
    """One front process (see ``life.ChildProcess``)."""

    def __init__(self, ground: Ground, listeners: Sequence[socket.socket]) -> None:
        self._ground = ground
        self._channel: Channel | None = None
        self._to_send: list[Message] = []
        self._ours, theirs = channel.pair()
        fds = [sock.fileno() for sock in listeners]
        argv = [sys.executable, "-m", "ichat.front", "--control-fd", str(theirs.fileno())]
        for fd in fds:
            argv += ["--listen-fd", str(fd)]
        env = environment.for_front(ground.inherited)
        with theirs, ground.output.open("front") as output:
            self._child = ground.processes.spawn(
                "front", argv, env=env, pass_fds=[theirs.fileno(), *fds], output_fd=output.fileno()
            )
        self.pid, self.ended = self._child.pid, self._child.ended
        ground.run_dir.residue.started(self.pid)

    async def receive(self) -> Message | None:
        if self._channel is None:
            self._channel = await Channel.open(self._ours)
            for message in self._to_send:
                self._channel.send(message)
        return await self._channel.receive()

    def send(self, message: Message) -> None:
        if self._channel is None:
            self._to_send.append(message)
        else:
            self._channel.send(message)

    def terminate(self) -> None:
        self._child.terminate()

    async def bury(self) -> None:
        await self._ground.processes.kill_everything(self._child)
        if self._channel is None:
            self._ours.close()
        else:
            self._channel.close()
        self._ground.run_dir.residue.ended(self.pid)


class Front:
    """A supervisor's ward (see ``supervisor.Ward``), and what the shutdown asks of the front."""

    name = "front"

    def __init__(self, start: Callable[[], ChildProcess], board: Board, settings: Settings) -> None:
        self._start, self.board, self._settings = start, board, settings
        self._process: ChildProcess | None = None
        self._is_withdrawn = False
        self._sent: messages.Routes | None = None
        self._deadline: float | None = None
        #: The requests that ended with a front process since the withdrawal.
        self.lost = 0
        #: The number of requests that were cut off since the withdrawal; set when the last one has ended.
        self.drained: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        board.listen(self._send_routes)

    # ---- for the shutdown -------------------------------------------------------------------------------------

    def withdraw(self) -> None:
        self._is_withdrawn = True
        self._send(messages.Withdraw())

    def drain(self, deadline: float) -> None:
        """Requests in flight may finish until the deadline (of ``time.monotonic()``); an earlier one replaces it."""
        self._deadline = deadline
        if self._process is None:
            self._is_drained(0)
        self._send(messages.Drain(deadline))

    # ---- for the supervisor -----------------------------------------------------------------------------------

    def begin(self, restarts: int) -> Life:
        process = self._start()
        server = self._settings.server
        process.send(
            messages.StartFront(
                limits=server.limits.model_dump(mode="json"),
                timeouts=self._settings.timeouts.model_dump(mode="json"),
                api_keys={name: key.get_secret_value() for name, key in server.api_keys.items()},
                log_format=server.log_format,
            )
        )
        self._process, self._sent = process, None
        self.board.post_front("restarting the front" if restarts else "starting the front", process.pid)
        if self._is_withdrawn:
            self._send(messages.Withdraw())
        if self._deadline is not None:
            self._send(messages.Drain(self._deadline))
        return _FrontLife(self, process, self._settings.timeouts)

    def ended(self, ending: Ending) -> None:
        self.gone(f"restarting the front: {ending.words}")

    def pausing(self, ending: Ending, attempt: str, after_s: float) -> None:
        self.board.post_front(f"restarting the front: {ending.words}; {attempt} in {after_s:.0f} s", None)

    def failed(self, ending: Ending) -> None:
        self.gone(f"failed: {ending.words}")

    def stopped(self) -> None:
        self.gone("stopped")

    # ---- what the front says ----------------------------------------------------------------------------------

    def take(self, message: Message) -> None:
        match message:
            case messages.FrontLoad(in_flight=in_flight) if self._process is not None:
                self.board.in_flight = in_flight
            case messages.FrontDrained(aborted=aborted):
                self._is_drained(aborted)
            case messages.WorkerFault(instance=instance, words=words):
                log.warning("front: %s: %s", instance, words)

    def gone(self, words: str) -> None:
        """Whatever it held is lost; the sockets stay open, so that clients wait for the next one."""
        self._process = None
        if self._is_withdrawn:
            self.lost += self.board.in_flight
        self.board.in_flight = 0
        if self._deadline is not None:
            self._is_drained(0)
        self.board.post_front(words, None)

    def _is_drained(self, aborted: int) -> None:
        """``aborted`` is what the front of now has cut off; its predecessors' losses are added."""
        if not self.drained.done():
            self.drained.set_result(aborted + self.lost)

    def _send(self, message: Message) -> None:
        if self._process is not None:
            self._process.send(message)

    def _send_routes(self) -> None:
        routes = self.board.routes()
        if self._process is not None and routes != self._sent:
            self._sent = routes
            self._process.send(routes)


class Fronts(Front):
    """The front processes: what the launcher asks of all of them together."""

    def __init__(self, ground: Ground, sockets: Sequence[socket.socket], board: Board, settings: Settings) -> None:
        super().__init__(lambda: FrontProcess(ground, sockets), board, settings)
        self.wards = [self]
        self._drained: set[tuple[str, str]] = set()
        self._listeners: list[Callable[[], None]] = []

    def configure(self, settings: Settings) -> None:
        self._settings = settings
        server = settings.server
        self._send(
            messages.Configure(
                limits=server.limits.model_dump(mode="json"),
                timeouts=settings.timeouts.model_dump(mode="json"),
                api_keys={name: key.get_secret_value() for name, key in server.api_keys.items()},
            )
        )

    def set_log_level(self, level: str) -> None:
        del level

    def listen(self, listener: Callable[[], None]) -> None:
        self._listeners.append(listener)

    def drained_of(self, instance: str, incarnation: str) -> bool:
        return self._process is None or (instance, incarnation) in self._drained

    def take(self, message: Message) -> None:
        if isinstance(message, messages.WorkerDrained):
            self._drained.add((message.instance, message.incarnation))
            for listener in self._listeners:
                listener()
        super().take(message)


class _FrontLife(Life):
    kind = "front"

    def __init__(self, front: Front, process: ChildProcess, timeouts: Timeouts) -> None:
        super().__init__(process, timeouts, _START_S)
        self._front = front

    def take(self, message: Message) -> None:
        if isinstance(message, messages.FrontUp):
            self.become_ready()
            self._front.board.post_front(None, self.process.pid)
        self._front.take(message)

    def suspect(self) -> None:
        log.warning("front: %s does not answer", self.words)
        self._front.board.post_front("the front does not answer", self.process.pid)

    def clear(self) -> None:
        log.warning("front: %s answers again", self.words)
        self._front.board.post_front(None, self.process.pid)

    def stuck(self) -> Ending:
        return Ending(f"{self.words} did not serve within {_START_S:.0f} s, killed", ExitCode.SOFTWARE, _CODE)

    def died(self, ended: Exit) -> None:
        self._front.gone(f"restarting the front: {ended.words}")

    def explain(self, ended: Exit) -> Ending:
        return Ending(f"{self.words} {ended.words}", ended.code, _CODE)
