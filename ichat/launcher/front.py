"""One front process: started on sockets that outlive it, told the routes, and drained at the end."""

from __future__ import annotations

import dataclasses
import logging
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Protocol

from ichat.config.schema import Timeouts
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

    def __init__(self, ground: Ground, name: str, listeners: Sequence[socket.socket]) -> None:
        self._ground = ground
        self._channel: Channel | None = None
        self._to_send: list[Message] = []
        self._ours, theirs = channel.pair()
        fds = [sock.fileno() for sock in listeners]
        argv = [sys.executable, "-P", "-m", "ichat.front", "--control-fd", str(theirs.fileno())]
        for fd in fds:
            argv += ["--listen-fd", str(fd)]
        env = environment.for_front(ground.inherited)
        try:
            with theirs, ground.output.open(name) as output:
                self._child = ground.processes.spawn(
                    name, argv, env=env, pass_fds=[theirs.fileno(), *fds], output_fd=output.fileno()
                )
        except BaseException:
            self._ours.close()
            raise
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


class Team(Protocol):
    """What the ward of one front process needs of all of them (see ``fronts.Fronts``)."""

    board: Board

    def start_message(self, number: int) -> messages.StartFront:
        """How a front is started now."""

    def changed(self) -> None:
        """A ward's words or its pid."""

    def changed_load(self) -> None: ...

    def routes_sent(self, number: int, routes: messages.Routes) -> None: ...

    def drained_one(self) -> None:
        """A ward's ``drained`` is set."""

    def take(self, number: int, message: Message) -> None:
        """What a front says that concerns others than its ward."""

    def gone(self, number: int) -> None:
        """The process has ended, with all that it held."""


class Front:
    """The ward of one front process (see ``supervisor.Ward``)."""

    def __init__(self, name: str, number: int, start: Callable[[], ChildProcess], team: Team, timeouts: Timeouts):
        self.name, self.number = name, number
        self._start, self._team, self._timeouts = start, team, timeouts
        self._process: ChildProcess | None = None
        self._is_withdrawn = False
        self._sent: messages.Routes | None = None
        self._routes_sent = 0
        self._deadline: float | None = None
        self.words: str | None = "starting the front"  # None: it serves
        self.in_flight = 0
        self.has_come_up = False  # the process of now has accepted connections
        #: The requests that ended with a front process since the withdrawal.
        self.lost = 0
        #: The number of requests that were cut off since the withdrawal; set when the last one has ended.
        self.drained: int | None = None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    # ---- for the team -----------------------------------------------------------------------------------------

    def withdraw(self) -> None:
        self._is_withdrawn = True
        self.send(messages.Withdraw())

    def drain(self, deadline: float) -> None:
        """Requests in flight may finish until the deadline (of ``time.monotonic()``); an earlier one replaces it."""
        self._deadline = deadline
        if not self.has_come_up:  # it holds nothing
            self._is_drained(0)
        self.send(messages.Drain(deadline))

    def send(self, message: Message) -> None:
        """Harmless when there is no process now."""
        if self._process is not None:
            self._process.send(message)

    def send_routes(self) -> None:
        """If they have changed since the last time."""
        routes = self._team.board.routes()
        if self._process is not None and routes != self._sent:
            self._sent = routes
            self._routes_sent += 1
            numbered = dataclasses.replace(routes, number=self._routes_sent)
            self._team.routes_sent(self.number, numbered)
            self._process.send(numbered)

    # ---- for the supervisor -----------------------------------------------------------------------------------

    def begin(self, restarts: int) -> Life:
        process = self._start()
        process.send(self._team.start_message(self.number))
        self._process, self._sent, self.has_come_up = process, None, False
        self._tell("restarting the front" if restarts else "starting the front")
        self.send_routes()
        if self._is_withdrawn:
            self.send(messages.Withdraw())
        if self._deadline is not None:
            self.send(messages.Drain(self._deadline))
        return _FrontLife(self, process, self._timeouts)

    def ended(self, ending: Ending) -> None:
        self.gone(f"restarting the front: {ending.words}")

    def pausing(self, ending: Ending, attempt: str, after_s: float) -> None:
        self._tell(f"restarting the front: {ending.words}; {attempt} in {after_s:.0f} s")

    def failed(self, ending: Ending) -> None:
        self.gone(f"failed: {ending.words}")

    def stopped(self) -> None:
        self.gone("stopped")

    # ---- what the front says ----------------------------------------------------------------------------------

    def take(self, message: Message) -> None:
        match message:
            case messages.FrontUp():
                self.has_come_up = True
                self._tell(None)
            case messages.FrontLoad(in_flight=in_flight) if self._process is not None:
                self.in_flight = in_flight
                self._team.changed_load()
            case messages.FrontDrained(aborted=aborted):
                self._is_drained(aborted)
            case messages.WorkerFault(instance=instance, words=words):
                log.warning("%s: %s: %s", self.name, instance, words)
            case _:
                self._team.take(self.number, message)

    def suspect(self, words: str) -> None:
        log.warning("%s: %s does not answer", self.name, words)
        self._tell("the front does not answer")

    def clear(self, words: str) -> None:
        log.warning("%s: %s answers again", self.name, words)
        self._tell(None)

    def gone(self, words: str) -> None:
        """Whatever it held is lost; the sockets stay open, so that clients wait for the next one."""
        self._process, self.has_come_up = None, False
        if self._is_withdrawn:
            self.lost += self.in_flight
        self.in_flight = 0
        self._team.gone(self.number)
        if self._deadline is not None:
            self._is_drained(0)
        self._tell(words)

    def _is_drained(self, aborted: int) -> None:
        """``aborted`` is what the front of now has cut off; its predecessors' losses are added."""
        if self.drained is None:
            self.drained = aborted + self.lost
            self._team.drained_one()

    def _tell(self, words: str | None) -> None:
        self.words = words
        self._team.changed()


class _FrontLife(Life):
    kind = "front"

    def __init__(self, front: Front, process: ChildProcess, timeouts: Timeouts) -> None:
        super().__init__(process, timeouts, _START_S)
        self._front = front

    def take(self, message: Message) -> None:
        if isinstance(message, messages.FrontUp):
            self.become_ready()
        self._front.take(message)

    def suspect(self) -> None:
        self._front.suspect(self.words)

    def clear(self) -> None:
        self._front.clear(self.words)

    def stuck(self) -> Ending:
        return Ending(f"{self.words} did not serve within {_START_S:.0f} s, killed", ExitCode.SOFTWARE, _CODE)

    def died(self, ended: Exit) -> None:
        self._front.gone(f"restarting the front: {ended.words}")

    def explain(self, ended: Exit) -> Ending:
        return Ending(f"{self.words} {ended.words}", ended.code, _CODE)
