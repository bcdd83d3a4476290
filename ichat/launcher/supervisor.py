"""Life after life of one child: start, follow, clean up behind it, and start it again while the budget lasts."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import replace
from typing import NoReturn, Protocol

from ichat.config.schema import Restarts, Timeouts
from ichat.errors import IchatError, is_passing, system_failure
from ichat.launcher.devices import Turn
from ichat.launcher.life import Life
from ichat.launcher.process import Exit
from ichat.launcher.restarts import Decision, Ending, GiveUp, Restart, decide

log = logging.getLogger(__name__)

#: A child that is not ready has nothing to finish.
_STOP_STARTING_S = 1.0
#: Between two tries where the system had too little of something: the first, and the longest.
_FIRST_WAIT_S = 0.1
_LONGEST_WAIT_S = 5.0


class Ward(Protocol):
    """What is kept alive: a worker's instance, or the front. It tells the board what its supervisor does."""

    @property
    def name(self) -> str:
        """As in logs and errors: `qwen/0`."""

    def begin(self, restarts: int) -> Life:
        """Start the child."""

    def ended(self, ending: Ending) -> None:
        """A life has ended without being told to; its remains are being removed."""

    def pausing(self, ending: Ending, attempt: str, after_s: float) -> None:
        """The next start comes in ``after_s``."""

    def failed(self, ending: Ending) -> None:
        """There will be no other start."""

    def stopped(self) -> None:
        """As commanded."""


class Supervisor:
    """Keeps one ward alive.

    ``run()`` returns after ``stop()``, and raises the IchatError to leave with when another start makes no sense.
    Whatever happened before, nothing of a child is left when the next one is started, or when ``run()`` ends.
    ``rules`` may be replaced at any time; ``new_turn`` gives the turn that each start has to wait for.
    """

    def __init__(
        self, ward: Ward, rules: tuple[Restarts, Timeouts], new_turn: Callable[[], Turn] = lambda: Turn([])
    ) -> None:
        self.ward = ward
        self.rules = rules
        self._new_turn = new_turn
        self._life: Life | None = None
        self._was_ever_ready = False
        self._is_stopping = asyncio.Event()
        self._restarted: list[float] = []

    async def run(self) -> None:
        while not self._is_stopping.is_set():
            ending = await self._live()
            if ending is None or self._is_stopping.is_set():
                break
            decision = self._decide(ending)
            if isinstance(decision, GiveUp):
                self.ward.failed(ending)
                raise decision.error
            await self._pause(decision, ending)
        self.ward.stopped()

    @property
    def is_serving(self) -> bool:
        """The child has been ready, so it may hold requests."""
        return self._life is not None and self._life.was_ready

    def expect_end(self) -> None:
        """From now on the child's end is no failure, and not followed by another start."""
        self._is_stopping.set()

    async def stop(self, limit_s: float) -> Exit | None:
        """Let the child finish and leave, for ``limit_s`` at most; one that is not ready has a second.

        Nothing of it is left afterwards. Returns how it ended; None when there was none.
        """
        self._is_stopping.set()
        if self._life is None:
            return None
        life, process = self._life, self._life.process
        if not life.was_ready:
            limit_s = min(limit_s, _STOP_STARTING_S)
        process.terminate()
        await asyncio.wait({process.ended}, timeout=max(0.0, limit_s))
        if not process.ended.done():
            log.warning("%s: %s did not leave within %.1f s, killed", self.ward.name, life.words, limit_s)
        await process.bury()
        return process.ended.result() if process.ended.done() else None

    async def _live(self) -> Ending | None:
        """From a start to the end of all that it left behind. None: told to stop before it could begin."""
        turn = self._new_turn()
        try:
            if not await self._comes(turn):
                return None
            life = await self._begins()
            if life is None:
                return None
            self._life = life
            log.info("%s: started pid=%d", self.ward.name, life.process.pid)
            life.once_ready(turn.end)
            return await self._follow(life)
        finally:
            turn.end()

    async def _comes(self, turn: Turn) -> bool:
        """Wait for the turn, or until told to stop."""
        waits = [asyncio.create_task(turn.begin()), asyncio.create_task(self._is_stopping.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        return not self._is_stopping.is_set()

    async def _follow(self, life: Life) -> Ending:
        try:
            ending = await life.follow()
            if not self._is_stopping.is_set():
                # Told before the burial, which takes its time.
                self.ward.ended(ending)
                log.error("%s: %s", self.ward.name, ending.words)
        finally:
            await life.process.bury()
            self._was_ever_ready |= life.was_ready
            self._life = None
        return ending

    async def _begins(self) -> Life | None:
        """None: told to stop. IchatError: the system does not let us start it, and would not the next time.

        A first start is refused at once, by whoever waits for it. Later ones wait for what the system has too little
        of (pids, descriptors, memory, disk) as long as restarts are counted.
        """
        began, wait_s = asyncio.get_running_loop().time(), _FIRST_WAIT_S
        while not self._is_stopping.is_set():
            try:
                life = self.ward.begin(len(self._restarted))
            except (OSError, IchatError) as error:
                waited_s = asyncio.get_running_loop().time() - began
                if not self._restarted or not is_passing(error) or waited_s > self.rules[1].restart_window_s:
                    self._refuse(error)
                self._tell_wait(_failure_of(self.ward.name, error), wait_s, is_first=wait_s == _FIRST_WAIT_S)
            else:
                return life
            await self._sleep(wait_s)
            wait_s = min(wait_s * 2, _LONGEST_WAIT_S)
        return None

    def _tell_wait(self, failure: IchatError, wait_s: float, *, is_first: bool) -> None:
        if is_first:
            log.warning("%s Waiting until the system lets us.", failure)
        words = str(failure).removeprefix(f"{self.ward.name}: ").rstrip(".")
        self.ward.pausing(Ending(words, failure.exit_code, failure.code), "tried again", wait_s)

    def _refuse(self, error: OSError | IchatError) -> NoReturn:
        failure = _failure_of(self.ward.name, error)
        self.ward.failed(Ending(str(failure), failure.exit_code, failure.code))
        raise failure

    def _decide(self, ending: Ending) -> Decision:
        if ending.is_start_timeout:
            # What has been ready here before only had bad luck; anything else needs more time than it is given.
            ending = replace(ending, is_hopeless=not self._was_ever_ready)
        jitter = random.random()  # noqa: S311  no secret
        return decide(self.ward.name, ending, self._restarted, asyncio.get_running_loop().time(), self.rules, jitter)

    async def _pause(self, restart: Restart, ending: Ending) -> None:
        """Wait before the restart, or until told to stop."""
        self._restarted.append(asyncio.get_running_loop().time())
        attempt = f"attempt {restart.attempt} of {self.rules[0].max_restarts}"
        log.warning("%s: starts again in %.1f s, %s", self.ward.name, restart.after_s, attempt)
        self.ward.pausing(ending, attempt, restart.after_s)
        if restart.after_s:
            await self._sleep(restart.after_s)

    async def _sleep(self, for_s: float) -> None:
        """Or until told to stop."""
        stopping = asyncio.ensure_future(self._is_stopping.wait())
        await asyncio.wait({stopping}, timeout=for_s)
        stopping.cancel()


def _failure_of(name: str, error: OSError | IchatError) -> IchatError:
    return error if isinstance(error, IchatError) else system_failure(f"{name}: could not be started", error)
