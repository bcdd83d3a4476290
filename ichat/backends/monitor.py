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

_TICK_S = 0.5
# A process tree that used less than this share of one core in a tick computes nothing.
_COMPUTING_CORES = 0.3


@dataclass(frozen=True)
class Signs:
    """What can be seen from outside of an engine that owes an answer."""

    waited_s: float
    in_flight: int
    is_computing: bool
    stopped: tuple[str, ...] = ()  # processes in state T: somebody sent SIGSTOP, or a debugger holds them


class Judgement(Enum):
    WAIT = "wait"
    SUSPECT = "suspect"
    HANGS = "hangs"


def judge(signs: Signs, timeouts: Timeouts) -> Judgement:
    """What to think of a probe that has not been answered for ``waited_s``.

    An idle engine answers in milliseconds. A busy one answers between two steps, and a step can be a legal
    prefill of minutes: as long as its processes compute, we wait, though not for ever.
    """
    if signs.waited_s >= timeouts.busy_limit_s:
        return Judgement.HANGS
    is_busy = signs.in_flight > 0 and signs.is_computing and not signs.stopped
    if signs.waited_s >= timeouts.probe_limit_s and not is_busy:
        return Judgement.HANGS
    if signs.waited_s >= timeouts.probe_suspect_s and (signs.in_flight == 0 or signs.stopped):
        return Judgement.SUSPECT
    return Judgement.WAIT


class Patient(Protocol):
    """What the monitor needs of a backend."""

    async def probe(self) -> None: ...
    def in_flight(self) -> int: ...
    def progress(self) -> float: ...
    def stopped_processes(self) -> tuple[str, ...]: ...
    def cpu_s(self) -> float: ...
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
        waited_s, progress, cpu_s = 0.0, self._patient.progress(), self._patient.cpu_s()
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
            cpu_before_s, cpu_s = cpu_s, self._patient.cpu_s()
            signs = Signs(
                waited_s=waited_s,
                in_flight=self._patient.in_flight(),
                is_computing=cpu_s - cpu_before_s >= _COMPUTING_CORES * _TICK_S,
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
