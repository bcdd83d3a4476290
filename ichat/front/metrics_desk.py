"""One round of questions for `/metrics`: to every ready worker, and to the other front processes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from ichat.front import metrics_text
from ichat.front.exposition import Exposition
from ichat.front.worker_metrics import WorkerMetrics
from ichat.ipc import messages

if TYPE_CHECKING:
    from ichat.config.schema import Timeouts
    from ichat.front.worker import Worker

_log = logging.getLogger(__name__)

#: All texts of a round together; engines write some hundred kilobytes each. What comes on top is left out.
_LIMIT_BYTES = 32 * 1024 * 1024
#: As many rounds may follow each other at once; from then on there is one in each ``_APART_S``.
_BURST = 4
_APART_S = 1.0
#: A front's text goes to another one in pieces of this size, so that other messages are not held up for long.
_PIECE_CHARS = 64 * 1024

Answer = Callable[[list[bytes]], None]


class MetricsDesk:
    """Serves all who ask for metrics with one round at a time, and one in a second: an engine writes its numbers on the
    loop that streams its answers, so that asking in a loop would slow down every client.

    Who asks while a round still waits for answers shares it; who comes later gets the next one. Numbers are never old:
    who asks too soon waits. ``apart_s`` is how far apart rounds begin once ``burst`` of them have followed each other.
    """

    def __init__(
        self,
        own_text: Callable[[], str],
        workers: Callable[[], list[Worker]],
        timeouts: Timeouts,
        send: Callable[[messages.Message], None],
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self.own_text, self.workers, self.timeouts, self._send = own_text, workers, timeouts, send
        self._process = process
        self.others = set(range(processes)) - {process}
        self._number = 0
        self._round: _Round | None = None
        self._next: list[Answer] = []
        self.apart_s, self.burst = _APART_S, _BURST
        self._free_at = 0.0  # when the next round may begin, if all of them kept their distance
        self._timer: asyncio.TimerHandle | None = None

    def ask(self, answer: Answer) -> None:
        """``answer`` is called once, with the text in pieces."""
        if self._round is not None and self._round.is_open:
            self._round.answers.append(answer)
            return
        self._next.append(answer)
        if self._round is None and self._timer is None:
            self._begin_soon()

    def heard(self, message: messages.MetricsText) -> None:
        """Another front process has answered."""
        if self._round is not None and message.number == self._number:
            self._round.heard(message)

    def tell(self, message: messages.TellMetrics) -> None:
        """Another front process has asked."""
        text = self.own_text()
        for at in range(0, len(text), _PIECE_CHARS):
            piece, is_last = text[at : at + _PIECE_CHARS], at + _PIECE_CHARS >= len(text)
            self._send(messages.MetricsText(message.number, message.asker, self._process, piece, is_last))

    def _begin_soon(self) -> None:
        """At once, unless too many rounds were begun of late."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        wait_s = self._free_at - now - self.burst * self.apart_s
        if wait_s > 0:
            self._timer = loop.call_later(wait_s, self._begin)
        else:
            self._begin()

    def _begin(self) -> None:
        self._timer = None
        self._free_at = max(self._free_at, asyncio.get_running_loop().time()) + self.apart_s
        answers, self._next = self._next, []
        self._number += 1
        if self.others:
            self._send(messages.AskMetrics(self._number))
        self._round = _Round(self, answers)
        self._round.start()

    def ended(self, parts: list[bytes]) -> None:
        assert self._round is not None
        answers, self._round = self._round.answers, None
        for answer in answers:
            answer(parts)
        if self._next and self._round is None and self._timer is None:
            self._begin_soon()

    def failed(self) -> None:
        """Whoever waits gets the front's own numbers, so that one text that cannot be read hides nothing else."""
        _log.exception("front: the metrics could not be put together")
        self.ended([self.own_text().encode()])


class _Round:
    """Ends when all have answered, or the time is up; then the answers are made one text, slice by slice."""

    def __init__(self, desk: MetricsDesk, answers: list[Answer]) -> None:
        self._desk, self.answers = desk, answers
        self._workers = [WorkerMetrics(worker, self._look) for worker in desk.workers()]
        self._texts: dict[int, list[str]] = {process: [] for process in desk.others}
        self._waits_for = set(desk.others)
        self._timer: asyncio.TimerHandle | None = None
        self.is_open = True

    def start(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._desk.timeouts.connect_s, self._close)
        for worker in self._workers:
            worker.ask()
        self._look()

    def heard(self, message: messages.MetricsText) -> None:
        if message.process in self._waits_for:
            self._texts[message.process].append(message.text)
            if message.is_last:
                self._waits_for.discard(message.process)
                self._look()

    def _look(self) -> None:
        if self.is_open and not self._waits_for and all(worker.is_over for worker in self._workers):
            self._close()

    def _close(self) -> None:
        if not self.is_open:
            return
        self.is_open = False
        if self._timer is not None:
            self._timer.cancel()
        try:
            self._merge(self._collected())
        except Exception:  # noqa: BLE001  a round that never ended would hold up all that come after it
            self._desk.failed()
        finally:
            # Workers and rounds know each other: without this the texts stay until the garbage collector comes by.
            self._workers, self._texts, self._timer = [], {}, None

    def _collected(self) -> Exposition:
        exposition = Exposition()
        silent_fronts = self._add_fronts(exposition)
        workers = self._answered()
        notes = metrics_text.SILENT_WORKERS.render([({}, len(self._workers) - len(workers))])
        notes += metrics_text.SILENT_FRONTS.render([({}, silent_fronts)])
        exposition.add("\n".join([*notes, ""]).encode())
        for worker in workers:
            exposition.add(worker.text or b"", metrics_text.labels_of(worker.instance))
        return exposition

    def _add_fronts(self, exposition: Exposition) -> int:
        exposition.add(self._desk.own_text().encode())
        heard = ["".join(pieces) for process, pieces in self._texts.items() if process not in self._waits_for]
        for text in heard:
            exposition.add(text.encode())
        return len(self._texts) - sum(map(bool, heard))

    def _answered(self) -> list[WorkerMetrics]:
        """The workers whose text is here, as far as there is room for it."""
        room = _LIMIT_BYTES
        found: list[WorkerMetrics] = []
        for worker in self._workers:
            worker.give_up()
            if worker.text is not None and len(worker.text) <= room:
                room -= len(worker.text)
                found.append(worker)
        return found

    def _merge(self, exposition: Exposition) -> None:
        if exposition.step():
            self._desk.ended(exposition.parts())
        else:
            asyncio.get_running_loop().call_soon(self._merge_on, exposition)

    def _merge_on(self, exposition: Exposition) -> None:
        try:
            self._merge(exposition)
        except Exception:  # noqa: BLE001  as above
            self._desk.failed()
