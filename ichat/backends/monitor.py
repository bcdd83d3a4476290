"""Is the engine alive? Probes through it and back, what it makes of its requests, and the judgement on silence."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from ichat.backends.framework_args import News
from ichat.backends.pace import Pace
from ichat.config.schema import Timeouts
from ichat.errors import EngineError
from ichat.system.activity import Activity, Watch

_TICK_S = 0.5
#: An engine of which nothing was seen for so long does nothing, whatever else the machine has to do.
_QUIET_S = 2.0
#: The answer to a probe costs an idle engine milliseconds: one that has used seconds of a core for it goes in circles.
_PROBE_COSTS_S = 5.0


@dataclass(frozen=True)
class Signs:
    """What can be seen from outside of an engine, or one of its ranks, that owes the answer to a probe."""

    waited_s: float
    in_flight: int
    quiet_s: float  # nothing was seen of work for so long: no thread that ran, or waited for a core or a disk
    used_s: float = 0.0  # of its cores, since the probe began
    computed_s: float = 0.0  # in which it had a core at least
    bound_s: float = float("inf")  # of computed_s, as its own past has it


class Judgement(Enum):
    WAIT = "wait"
    SUSPECT = "suspect"
    HANGS = "hangs"


def judge(signs: Signs, timeouts: Timeouts) -> Judgement:
    """What to think of a probe that has not been answered for ``waited_s``.

    An idle engine answers in milliseconds. A busy one answers between two steps, and a step can be a legal
    prefill of minutes: as long as it is at work we wait, though not for ever. At work is also what waits for a core:
    on a busy machine, or under a quota, that is most of its time. One that has computed for far longer than its steps
    take may still come to an end, but nothing should be sent to it.
    """
    if signs.waited_s >= timeouts.busy_limit_s:
        return Judgement.HANGS
    is_at_work = signs.quiet_s < _QUIET_S
    is_busy = is_at_work and (signs.in_flight > 0 or signs.used_s < _PROBE_COSTS_S)
    if signs.waited_s >= timeouts.probe_limit_s and not is_busy:
        return Judgement.HANGS
    if signs.waited_s >= timeouts.probe_suspect_s and not is_busy and signs.in_flight == 0:
        return Judgement.SUSPECT
    return Judgement.SUSPECT if signs.computed_s >= signs.bound_s else Judgement.WAIT


class Patient(Protocol):
    """What the monitor needs of a backend; ``BaseBackend`` says what each of these is."""

    def ranks(self) -> Sequence[int]: ...
    async def probe(self, rank: int) -> None: ...
    def steps(self, rank: int) -> float: ...
    def in_flight(self) -> int: ...
    def progress(self) -> Hashable: ...
    def tokens(self) -> int: ...
    def owed_tokens(self) -> int: ...
    def stopped_processes(self) -> tuple[str, ...]: ...
    def activity(self, rank: int | None = None) -> Activity: ...
    def is_compiling(self) -> bool: ...
    def look_around(self) -> None: ...
    @property
    def is_commanded(self) -> bool: ...
    @property
    def is_resting(self) -> bool: ...


class Monitor:
    """Watches for ever; raises EngineError when the engine hangs or a probe fails.

    Three questions, each of which can make the engine suspect by itself: does each rank answer its probe; do requests
    in flight get any further while the engine computes; is a process stopped. A suspicion is told as soon as there is
    one, and its end when the last of them is over. An engine at work on a command is not probed: it may load weights
    for minutes, and the command has its own limit.
    """

    def __init__(self, patient: Patient, timeouts: Timeouts, news: News, warm_up_s: float = 0.0) -> None:
        self._patient, self._timeouts, self._news = patient, timeouts, news
        self._pace = Pace(warm_up_s)
        self._suspicions: set[str] = set()

    async def run(self) -> None:
        work = [self._watch_requests(), self._watch_stops(), *(self._probe(rank) for rank in self._patient.ranks())]
        tasks = [asyncio.ensure_future(each) for each in work]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # ---- what it thinks ---------------------------------------------------------------------------------------

    def _suspect(self, what: str, words: str) -> None:
        is_first = not self._suspicions
        self._suspicions.add(what)
        if is_first:
            self._news.suspect(words)

    def _clear(self, what: str) -> None:
        if what in self._suspicions:
            self._suspicions.discard(what)
            if not self._suspicions:
                self._news.recovered()

    # ---- probes -----------------------------------------------------------------------------------------------

    async def _probe(self, rank: int) -> None:
        while True:
            if rank == self._patient.ranks()[0]:
                self._patient.look_around()
            if not self._patient.is_commanded:
                await self._probe_once(rank)
            await asyncio.sleep(self._timeouts.probe_every_s)

    async def _probe_once(self, rank: int) -> None:
        probe = asyncio.create_task(self._patient.probe(rank), name=f"probe {rank}")
        try:
            has_answered = await self._await_answer(rank, probe)
        finally:
            probe.cancel()
        if has_answered:
            self._clear(f"rank {rank}")
            if not self._patient.stopped_processes():
                self._clear("stopped")

    async def _await_answer(self, rank: int, probe: asyncio.Task[None]) -> bool:
        """True when the probe was answered or the rank has made a step; False: nothing is known."""
        waited_s, steps, watch = 0.0, self._patient.steps(rank), Watch(self._patient.activity(rank))
        owed = self._patient.owed_tokens()
        while True:
            await asyncio.wait({probe}, timeout=_TICK_S)
            if probe.done():
                _raise_failure(probe)
            if probe.done() or self._patient.steps(rank) != steps:
                self._pace.learn(watch.computed_s)
                return True
            if self._patient.is_commanded:
                return False
            # Ticks are counted instead of reading a clock: time in which this process itself did not run (a
            # starved or suspended machine) says nothing about the engine.
            waited_s += _TICK_S
            self._look(watch, rank)
            signs = Signs(
                waited_s=waited_s,
                in_flight=self._patient.in_flight(),
                quiet_s=watch.quiet_s,
                used_s=watch.used_s,
                computed_s=watch.computed_s,
                bound_s=self._pace.bound_s(owed),
            )
            which = f"rank {rank} of the engine" if len(self._patient.ranks()) > 1 else "the engine"
            self._act(judge(signs, self._timeouts), f"rank {rank}", f"{which} has not answered a probe for", waited_s)

    def _look(self, watch: Watch, rank: int | None = None) -> None:
        activity = self._patient.activity(rank)
        watch.look(activity, _TICK_S, is_expected=self._patient.is_compiling())

    def _act(self, judgement: Judgement, what: str, words: str, waited_s: float) -> None:
        if judgement is Judgement.HANGS:
            raise EngineError(f"{words} {waited_s:.0f} s", code="E-ENG-HUNG")
        if judgement is Judgement.SUSPECT:
            self._suspect(what, f"{words} {waited_s:.0f} s")

    # ---- requests ---------------------------------------------------------------------------------------------

    async def _watch_requests(self) -> None:
        """Suspect an engine that computes, and brings nothing of any request any further.

        Whether it answers probes makes no difference. One that computes nothing may wait for others (a cache that is
        sent to it), which is not judged here.
        """
        while True:
            await self._await_progress()
            self._clear("requests")

    async def _await_progress(self) -> None:
        """Returns when requests got further, or there are none."""
        patient = self._patient
        progress, tokens, watch, owed, waited_s = patient.progress(), patient.tokens(), None, 0, 0.0
        while True:
            await asyncio.sleep(_TICK_S)
            if not patient.in_flight() or patient.is_commanded or patient.is_resting or progress is None:
                return
            if patient.progress() != progress:
                self._pace.learn(watch.computed_s if watch else 0.0)
                self._pace.count(waited_s + _TICK_S, max(0, patient.tokens() - tokens))
                return
            waited_s += _TICK_S
            if watch is None:  # the engine is looked at only when there is something to wonder about
                watch, owed = Watch(patient.activity()), patient.owed_tokens()
                continue
            self._look(watch)
            words = f"the engine computes, and has made no token of {patient.in_flight()} requests for"
            if watch.computed_s >= self._timeouts.busy_limit_s:
                self._act(Judgement.HANGS, "requests", words, waited_s)
            if watch.computed_s >= self._pace.bound_s(owed):
                self._act(Judgement.SUSPECT, "requests", words, waited_s)

    # ---- stopped processes ------------------------------------------------------------------------------------

    async def _watch_stops(self) -> None:
        """A process in state T is suspect when it is seen twice: a profiler stops it for an instant."""
        stopped_s = 0.0
        while True:
            await asyncio.sleep(_TICK_S)
            stopped = self._patient.stopped_processes()
            stopped_s = stopped_s + _TICK_S if stopped else 0.0
            words = f"stopped: {', '.join(stopped)}, for"
            if stopped_s >= self._timeouts.probe_limit_s:
                self._act(Judgement.HANGS, "stopped", words, stopped_s)
            elif stopped_s > _TICK_S:
                self._act(Judgement.SUSPECT, "stopped", words, stopped_s)


def _raise_failure(probe: asyncio.Task[None]) -> None:
    error = probe.exception()
    if error is not None:
        raise EngineError(f"a probe of the engine failed: {type(error).__name__}: {error}") from error


async def scan_while(work: Awaitable[None], look_around: Callable[[], None], every_s: float = _TICK_S) -> None:
    """Await ``work`` and look around meanwhile: during a start processes come, and may go."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=every_s)
            look_around()
        await task
    finally:
        task.cancel()
