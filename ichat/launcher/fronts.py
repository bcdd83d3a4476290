"""All front processes together: what the shutdown, a reload and the workers' rollouts ask of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from ichat.config.schema import Server, Settings
from ichat.ipc import messages
from ichat.ipc.messages import Message
from ichat.launcher.board import Board
from ichat.launcher.front import Front
from ichat.launcher.life import ChildProcess
from ichat.launcher.process import Exit
from ichat.launcher.shutdown import Stoppable
from ichat.launcher.worker_drains import WorkerDrains


class Fronts:
    """``wards`` are for one supervisor each. ``start`` starts the process of a number and a name.

    The public port is served as long as one of them serves: the others' clients connect again, and reach it or wait.
    """

    def __init__(self, start: Callable[[int, str], ChildProcess], board: Board, settings: Settings) -> None:
        self.board, self._settings = board, settings
        self._drains = WorkerDrains()
        self._log_level = "info"
        #: The number of requests that were cut off since the withdrawal; set when the last one has ended.
        self.drained: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.wards: list[Front] = []
        count = settings.front.processes
        for number in range(count):
            name = "front" if count == 1 else f"front/{number}"
            self.wards.append(Front(name, number, self._starter(start, number, name), self, settings.timeouts))
        board.listen(self._send_routes)

    @staticmethod
    def _starter(start: Callable[[int, str], ChildProcess], number: int, name: str) -> Callable[[], ChildProcess]:
        return lambda: start(number, name)

    # ---- for the shutdown -------------------------------------------------------------------------------------

    @property
    def lost(self) -> int:
        """The requests that ended with a front process since the withdrawal."""
        return sum(ward.lost for ward in self.wards)

    def withdraw(self) -> None:
        for ward in self.wards:
            ward.withdraw()

    def drain(self, deadline: float) -> None:
        """Requests in flight may finish until the deadline (of ``time.monotonic()``); an earlier one replaces it."""
        for ward in self.wards:
            ward.drain(deadline)

    # ---- for a reload -----------------------------------------------------------------------------------------

    def configure(self, settings: Settings) -> None:
        """Limits, timeouts and API keys hold for the requests that come from now on, also in fronts that start later.

        How many processes there are, and where the certificate is, stays.
        """
        self._settings = settings
        server = settings.server
        message = messages.Configure(
            limits=server.limits.model_dump(mode="json"),
            timeouts=settings.timeouts.model_dump(mode="json"),
            api_keys=api_keys(server),
            cors_origins=list(server.cors_origins),
        )
        for ward in self.wards:
            ward.send(message)

    def set_log_level(self, level: str) -> None:
        """Of the fronts' own lines, also of those that start later."""
        self._log_level = level
        for ward in self.wards:
            ward.send(messages.LogLevel(level))

    # ---- for who stops a worker -------------------------------------------------------------------------------

    def drained_of(self, instance: str, incarnation: str) -> bool:
        """No front process has a request of this worker, and none gets one as long as the routes do not offer it."""
        return self._drains.is_drained(instance, incarnation)

    def listen(self, listener: Callable[[], None]) -> None:
        """Called whenever `drained_of` may have become true of a worker."""
        self._drains.listen(listener)

    # ---- for the wards ----------------------------------------------------------------------------------------

    def start_message(self, number: int) -> messages.StartFront:
        server = self._settings.server
        return messages.StartFront(
            limits=server.limits.model_dump(mode="json"),
            timeouts=self._settings.timeouts.model_dump(mode="json"),
            api_keys=api_keys(server),
            cors_origins=list(server.cors_origins),
            log_format=server.log_format,
            tls_cert_file=server.tls_cert_file,
            tls_key_file=server.tls_key_file,
            number=number,
            processes=len(self.wards),
            log_level=self._log_level,
        )

    def changed(self) -> None:
        serving = [ward for ward in self.wards if ward.words is None]
        best = (serving or self.wards)[0]
        self.changed_load()
        self.board.post_front(best.words, best.pid)

    def changed_load(self) -> None:
        self.board.in_flight = sum(ward.in_flight for ward in self.wards)

    def routes_sent(self, number: int, routes: messages.Routes) -> None:
        self._drains.sent(number, routes)

    def drained_one(self) -> None:
        aborted = [ward.drained for ward in self.wards]
        if None not in aborted and not self.drained.done():
            self.drained.set_result(sum(count or 0 for count in aborted))

    def take(self, number: int, message: Message) -> None:
        match message:
            case messages.WorkerDrained():
                self._drains.said(number, message)
            case messages.AskMetrics(number=question):
                self._pass_on(messages.TellMetrics(question, number))
            case messages.MetricsText(asker=asker):
                self.wards[asker].send(message)

    def gone(self, number: int) -> None:
        self._drains.gone(number)

    def _pass_on(self, question: messages.TellMetrics) -> None:
        """To all but the one who asks; for those that do not serve now it is told that nothing comes."""
        for ward in self.wards:
            if ward.number == question.asker:
                continue
            if ward.has_come_up:
                ward.send(question)
            else:
                nothing = messages.MetricsText(question.number, question.asker, ward.number, "", is_last=True)
                self.wards[question.asker].send(nothing)

    def _send_routes(self) -> None:
        for ward in self.wards:
            ward.send_routes()


class Together:
    """Several supervisors, as the shutdown asks one of them (see ``shutdown.Stoppable``)."""

    def __init__(self, supervisors: Sequence[Stoppable]) -> None:
        self._supervisors = supervisors

    @property
    def is_serving(self) -> bool:
        return any(supervisor.is_serving for supervisor in self._supervisors)

    def expect_end(self) -> None:
        for supervisor in self._supervisors:
            supervisor.expect_end()

    async def stop(self, limit_s: float) -> Exit | None:
        """How the first of them ended that did not end well; else how one did."""
        exits = await asyncio.gather(*(supervisor.stop(limit_s) for supervisor in self._supervisors))
        ends = [one for one in exits if one is not None]
        return next((one for one in ends if one.code != 0), ends[0] if ends else None)


def api_keys(server: Server) -> dict[str, str]:
    """Every key by its name."""
    return {name: key.get_secret_value() for name, key in server.api_keys.items()}
