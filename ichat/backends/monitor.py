"""Is the engine alive? Probes through it and back, and the judgement on a probe that does not come back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from ichat.backends.framework_args import News
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
    """What can be seen from outside of an engine that owes an answer."""

    waited_s: float
    in_flight: int
    quiet_s: float  # nothing was seen of work for so long: no thread that ran, or waited for a core or a disk
    used_s: float = 0.0  # of a core, since the probe began
    stopped: tuple[str, ...] = ()  # processes in state T: somebody sent SIGSTOP, or a debugger holds them


class Judgement(Enum):
    WAIT = "wait"
    SUSPECT = "suspect"
    HANGS = "hangs"


def judge(signs: Signs, timeouts: Timeouts) -> Judgement:
    """What to think of a probe that has not been answered for ``waited_s``.

    An idle engine answers in milliseconds. A busy one answers between two steps, and a step can be a legal
    prefill of minutes: as long as it is at work we wait, though not for ever. At work is also what waits for a core:
    on a busy machine, or under a quota, that is most of its time.
    """
    if signs.waited_s >= timeouts.busy_limit_s:
        return Judgement.HANGS
    is_at_work = signs.quiet_s < _QUIET_S and not signs.stopped
    is_busy = is_at_work and (signs.in_flight > 0 or signs.used_s < _PROBE_COSTS_S)
    if signs.waited_s >= timeouts.probe_limit_s and not is_busy:
        return Judgement.HANGS
    if signs.waited_s >= timeouts.probe_suspect_s and not is_busy and (signs.in_flight == 0 or signs.stopped):
        return Judgement.SUSPECT
    return Judgement.WAIT


class Patient(Protocol):
    """What the monitor needs of a backend."""

    async def probe(self) -> None: ...
    def in_flight(self) -> int: ...
    def progress(self) -> float: ...
    def stopped_processes(self) -> tuple[str, ...]: ...
    def activity(self) -> Activity: ...
    def look_around(self) -> None: ...
    @property
    def is_commanded(self) -> bool: ...


class Monitor:
    """Probes for ever; raises EngineError when the engine hangs or a probe fails.

    An engine at work on a command is not probed: it may load weights for minutes, and the command has its own limit.
    """

    def __init__(self, patient: Patient, timeouts: Timeouts, news: News) -> None:
        self._patient, self._timeouts, self._news = patient, timeouts, news
        self._is_suspected = False

    async def run(self) -> None:
        while True:
            self._patient.look_around()
            if not self._patient.is_commanded:
                await self._probe_once()
            await asyncio.sleep(self._timeouts.probe_every_s)

    async def _probe_once(self) -> None:
        probe = asyncio.create_task(self._patient.probe(), name="probe")
        try:
            has_answered = await self._await_answer(probe)
        finally:
            probe.cancel()
        if self._is_suspected and has_answered:
            self._is_suspected = False
            self._news.recovered()

    async def _await_answer(self, probe: asyncio.Task[None]) -> bool:
        """True when the probe was answered or the engine has shown another sign of life; False: nothing is known."""
        waited_s, progress, watch = 0.0, self._patient.progress(), Watch(self._patient.activity())
        while True:
            await asyncio.wait({probe}, timeout=_TICK_S)
            if probe.done():
                _raise_failure(probe)
                return True
            if self._patient.progress() != progress:
                return True
            if self._patient.is_commanded:
                return False
            # Ticks are counted instead of reading a clock: time in which this process itself did not run (a
            # starved or suspended machine) says nothing about the engine.
            waited_s += _TICK_S
            watch.look(self._patient.activity(), _TICK_S)
            signs = Signs(
                waited_s=waited_s,
                in_flight=self._patient.in_flight(),
                quiet_s=watch.quiet_s,
                used_s=watch.used_s,
                stopped=self._patient.stopped_processes(),
            )
            self._act(judge(signs, self._timeouts), signs)

    def _act(self, judgement: Judgement, signs: Signs) -> None:
        stopped = f"; stopped: {', '.join(signs.stopped)}" if signs.stopped else ""
        words = f"the engine has not answered a probe for {signs.waited_s:.0f} s{stopped}"
        if judgement is Judgement.HANGS:
            raise EngineError(words, code="E-ENG-HUNG")
        if judgement is Judgement.SUSPECT and not self._is_suspected:
            self._is_suspected = True
            self._news.suspect(words)


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
