"""A worker's life after life, in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections.abc import AsyncIterator

import pytest

from ichat.config.schema import Restarts, Settings
from ichat.errors import ExitCode, IchatError, ResourceError
from ichat.ipc import messages
from ichat.launcher.board import Board
from ichat.launcher.instance import Instance, InstanceSpec
from ichat.launcher.process import Exit
from ichat.launcher.status import ModelInfo
from ichat.launcher.supervisor import Supervisor
from tests.unit.launcher.fakes import FakeProcess, settings

pytestmark = pytest.mark.looptime
KILLED = Exit(None, 9)


class Bench:
    """A supervised instance whose workers the test plays."""

    def __init__(self, rules: Settings, *, leaves_after_s: float | None = 0.0) -> None:
        loop = asyncio.get_running_loop()
        self.board = Board(loop.time)
        self.board.post_model(ModelInfo.of(rules.models[0], rules.timeouts))
        self.workers: list[FakeProcess] = []
        self.started: list[float] = []
        self._came = asyncio.Event()

        self.refusals: list[OSError] = []  # of the next starts

        def start(spec: InstanceSpec) -> FakeProcess:
            if self.refusals:
                error = self.refusals.pop(0)
                raise ResourceError("demo/0: could not start python") from error
            self.workers.append(FakeProcess(leaves_after_s=leaves_after_s))
            self.started.append(loop.time())
            self._came.set()
            return self.workers[-1]

        self.instance = Instance(InstanceSpec("demo/0", 0, rules.models[0]), start, self.board, rules.timeouts)
        self.supervisor = Supervisor(self.instance, (rules.restarts, rules.timeouts))
        self.running = asyncio.create_task(self.supervisor.run())

    async def worker(self, number: int) -> FakeProcess:
        while len(self.workers) <= number:
            self._came.clear()
            await self._came.wait()
        await settle()
        return self.workers[number]

    async def ready_worker(self, number: int = 0) -> FakeProcess:
        worker = await self.worker(number)
        worker.become_ready()
        await settle()
        return worker

    @property
    def health(self) -> tuple[bool, str]:
        self.board.front_words = None
        return self.board.health()


@contextlib.asynccontextmanager
async def bench(rules: Settings | None = None, *, leaves_after_s: float | None = 0.0) -> AsyncIterator[Bench]:
    one = Bench(rules or settings(), leaves_after_s=leaves_after_s)
    try:
        yield one
    finally:
        one.running.cancel()
        await asyncio.wait({one.running})


async def settle() -> None:
    """Let everything happen that needs no time."""
    for _ in range(20):
        await asyncio.sleep(0)


async def failure_of(one: Bench) -> IchatError:
    with pytest.raises(IchatError) as found:
        await one.running
    return found.value


async def test_it_is_ready_only_after_the_worker_says_so() -> None:
    async with bench() as one:
        worker = await one.worker(0)
        assert one.health == (False, "loading demo: starting, 0 s")
        worker.say(messages.WorkerPhase("weights"))
        await asyncio.sleep(12)
        assert one.health == (False, "loading demo: weights, 12 s")
        await one.ready_worker()
        assert one.health == (True, "ready: demo")


async def test_a_death_is_red_at_once_and_followed_by_a_start_within_a_second(looptime: object) -> None:
    async with bench() as one:
        worker = await one.ready_worker()
        worker.end(KILLED)
        await settle()
        assert not one.health[0]
        await one.worker(1)
        assert one.started[1] - one.started[0] < 1
        assert worker.burials == 1


async def test_an_engine_may_rest_for_longer_than_a_start_may_take() -> None:
    async with bench(settings(start_s=60)) as one:
        worker = await one.ready_worker()
        worker.say(messages.WorkerResting("paused"))
        await asyncio.sleep(3600)
        assert one.health == (False, "resting demo: paused, 3600 s")
        assert one.workers == [worker]
        await one.ready_worker()
        assert one.health[0]


async def test_a_command_reaches_the_worker_that_lives_and_its_answer_comes_back() -> None:
    async with bench() as one:
        assert (await one.instance.commands.ask("sleep", {}, 1)).status == 503
        worker = await one.ready_worker()
        asking = asyncio.create_task(one.instance.commands.ask("sleep", {"level": 1}, 60))
        await settle()
        assert messages.Control(1, "sleep", {"level": 1}) in worker.sent
        worker.say(messages.ControlDone(1, 200, {}))
        assert await asking == messages.ControlDone(1, 200, {})


async def test_a_worker_that_ends_over_a_command_leaves_nobody_waiting() -> None:
    async with bench(settings(probe_limit_s=10)) as one:
        for number, end in enumerate((FakeProcess.end_by_kill, FakeProcess.stop_answering)):
            worker = await one.ready_worker(number)
            asking = asyncio.create_task(one.instance.commands.ask("sleep", {}, 600))
            await settle()
            end(worker)
            assert (await asking).status == 502


async def test_an_end_is_told_by_the_workers_last_words_and_the_systems() -> None:
    async with bench(settings(restarts=Restarts(enabled=False))) as one:
        worker = await one.ready_worker()
        worker.hint = " (by the OOM killer)"
        worker.say(messages.WorkerFailed(69, "E-ENG-DIED", "vLLM process 7 (EngineCore) was killed by SIGKILL."))
        await settle()
        assert not one.health[0]
        worker.end(Exit(69, None))
        error = await failure_of(one)
        assert error.exit_code == ExitCode.ENGINE
        assert "vLLM process 7 (EngineCore) was killed by SIGKILL (by the OOM killer)" in str(error)


async def test_a_fork_that_holds_the_channel_open_does_not_hide_a_death(looptime: object) -> None:
    async with bench() as one:
        worker = await one.ready_worker()
        worker.ended.set_result(KILLED)  # and no end of the channel
        await settle()
        assert not one.health[0]
        await one.worker(1)
        assert looptime < 1  # type: ignore[operator]


async def test_the_sixth_death_in_ten_minutes_ends_it() -> None:
    async with bench() as one:
        for number in range(6):
            worker = await one.ready_worker(number)
            await asyncio.sleep(2)
            worker.end(KILLED)
        error = await failure_of(one)
        assert error.exit_code == 69
        assert len(one.workers) == 6
        gaps = [b - a - 2 for a, b in zip(one.started, one.started[1:], strict=False)]
        assert gaps[0] < 1
        for gap, longest in zip(gaps[1:], (1, 2, 4, 8), strict=True):
            assert 0.75 * longest <= gap <= longest + 0.3
        assert one.board["demo/0"].state == "failed"


async def test_deaths_that_are_far_apart_never_end_it() -> None:
    async with bench() as one:
        for number in range(20):
            worker = await one.ready_worker(number)
            await asyncio.sleep(601)
            worker.end(KILLED)
        await one.worker(20)


async def test_words_while_it_waits_for_its_next_start() -> None:
    async with bench() as one:
        for number in range(2):
            (await one.ready_worker(number)).end(KILLED)
        while "attempt" not in one.health[1]:
            await asyncio.sleep(0.1)
        worker = one.workers[1]
        assert one.health == (
            False,
            f"restarting demo: worker (pid {worker.pid}) was killed by SIGKILL; attempt 2 of 5 in 1 s",
        )


async def test_a_permanent_failure_is_not_tried_again() -> None:
    async with bench() as one:
        worker = await one.worker(0)
        worker.say(messages.WorkerFailed(65, "E-MODEL-DATA", "weights.safetensors: truncated. Download it again."))
        worker.end(Exit(65, None))
        error = await failure_of(one)
        assert (error.exit_code, error.code) == (65, "E-MODEL-DATA")
        assert len(one.workers) == 1
        assert worker.burials == 1


async def test_a_first_start_that_takes_too_long_names_its_phase_and_is_the_last(looptime: object) -> None:
    async with bench(settings(start_s=30)) as one:
        worker = await one.worker(0)
        worker.say(messages.WorkerPhase("imports"))
        await asyncio.sleep(10)
        worker.say(messages.WorkerPhase("weights"))
        error = await failure_of(one)
        assert looptime == 30
        assert error.exit_code == 69
        assert "not ready within 30 s, stuck in: weights, 20 s" in str(error)
        assert worker.burials == 1


async def test_a_later_start_that_takes_too_long_is_tried_again(looptime: object) -> None:
    async with bench(settings(start_s=30)) as one:
        (await one.ready_worker()).end(KILLED)
        await one.worker(2)
        assert looptime > 30  # type: ignore[operator]


async def test_a_ready_worker_has_no_time_limit() -> None:
    async with bench(settings(start_s=30)) as one:
        await one.ready_worker()
        await asyncio.sleep(3600)
        assert one.health == (True, "ready: demo")


async def test_a_stopped_worker_is_red_within_eight_seconds_and_replaced_after_its_limit(looptime: object) -> None:
    async with bench() as one:
        worker = await one.ready_worker()
        await asyncio.sleep(100)
        worker.is_answering = False
        while one.health[0]:
            await asyncio.sleep(0.1)
        assert looptime < 108.2  # type: ignore[operator]
        await one.worker(1)
        assert looptime < 115.5  # type: ignore[operator]
        assert worker.burials == 1


async def test_a_late_answer_makes_it_ready_again() -> None:
    async with bench() as one:
        worker = await one.ready_worker()
        worker.is_answering = False
        await asyncio.sleep(9)
        assert "does not answer" in one.health[1]
        worker.is_answering = True
        pings = [message for message in worker.sent if isinstance(message, messages.Ping)]
        worker.say(messages.Pong(pings[-1].number))
        await settle()
        assert one.health == (True, "ready: demo")
        await asyncio.sleep(100)
        assert len(one.workers) == 1


async def test_an_engine_under_suspicion_is_not_ready_until_it_answers() -> None:
    async with bench() as one:
        worker = await one.ready_worker()
        worker.say(messages.WorkerSuspect("no answer from the engine for 3 s"))
        await settle()
        assert one.health == (False, "waiting for demo: no answer from the engine for 3 s, 0 s")
        await one.ready_worker()
        assert one.health == (True, "ready: demo")


async def test_a_stop_waits_for_a_ready_worker_to_finish(looptime: object) -> None:
    async with bench(leaves_after_s=1.5) as one:
        worker = await one.ready_worker()
        assert await one.supervisor.stop(2) == Exit(0, None)
        assert looptime == 1.5
        await one.running
        assert worker.burials >= 1
        assert one.board["demo/0"].state == "stopped"
        assert len(one.workers) == 1


async def test_a_stop_kills_what_does_not_leave_in_time(looptime: object) -> None:
    async with bench(leaves_after_s=None) as one:
        worker = await one.ready_worker()
        assert await one.supervisor.stop(2) == KILLED
        assert looptime == 2
        await one.running
        assert worker.burials >= 1


async def test_a_stop_during_the_load_waits_a_second_at_most(looptime: object) -> None:
    async with bench(leaves_after_s=None) as one:
        await one.worker(0)
        await one.supervisor.stop(30)
        assert looptime == 1
        await one.running


async def test_a_stop_during_the_pause_before_a_restart_ends_it_at_once(looptime: object) -> None:
    async with bench() as one:
        for number in range(2):
            (await one.ready_worker(number)).end(KILLED)
        await asyncio.sleep(0.7)
        assert one.board["demo/0"].retry_at is not None
        before = asyncio.get_running_loop().time()
        assert await one.supervisor.stop(2) is None
        await one.running
        assert asyncio.get_running_loop().time() == before
        assert len(one.workers) == 2


async def test_shared_memory_is_remembered_for_the_burial() -> None:
    async with bench() as one:
        worker = await one.ready_worker()
        worker.say(messages.WorkerResidue(["/dev/shm/psm_1"]))
        await settle()
        assert worker.shm == ["/dev/shm/psm_1"]


async def test_a_worker_that_closes_its_channel_and_stays_is_replaced() -> None:
    async with bench() as one:
        worker = await one.ready_worker()
        worker.say(None)  # type: ignore[arg-type]
        await one.worker(1)
        assert worker.burials == 1


def bug() -> None:
    raise TypeError("a bug")


async def test_a_bug_in_what_hears_the_worker_is_not_swallowed() -> None:
    async with bench() as one:
        worker = await one.worker(0)
        one.board.listen(bug)
        worker.say(messages.WorkerPhase("weights"))
        with pytest.raises(TypeError):
            await one.running
        assert worker.burials == 1


@pytest.mark.parametrize("cause", ["EAGAIN", "EMFILE", "ENFILE", "ENOMEM", "ENOSPC"])
async def test_what_the_system_lacks_for_a_moment_at_a_restart_is_waited_for_and_told_once(
    cause: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with bench() as one:
        worker = await one.ready_worker()
        one.refusals = [OSError(getattr(errno, cause), cause) for _ in range(5)]
        with caplog.at_level(logging.WARNING):
            worker.end(KILLED)
            await one.worker(1)
        assert 1 < one.started[1] - one.started[0] < 10
        assert sum("Waiting until the system lets us" in line for line in caplog.messages) == 1
        await one.ready_worker(1)
        assert one.health == (True, "ready: demo")


@pytest.mark.parametrize("cause", ["ENOENT", "EACCES"])
async def test_what_another_try_cannot_change_is_not_waited_for(cause: str) -> None:
    async with bench() as one:
        worker = await one.ready_worker()
        one.refusals = [OSError(getattr(errno, cause), cause)]
        worker.end(KILLED)
        assert (await failure_of(one)).exit_code == ExitCode.RESOURCE
        assert len(one.started) == 1


async def test_what_the_system_lacks_for_too_long_ends_it() -> None:
    async with bench(settings(restart_window_s=30)) as one:
        worker = await one.ready_worker()
        one.refusals = [OSError(errno.EAGAIN, "EAGAIN")] * 1000
        worker.end(KILLED)
        began = asyncio.get_running_loop().time()
        assert (await failure_of(one)).exit_code == ExitCode.RESOURCE
        assert 30 <= asyncio.get_running_loop().time() - began < 40


async def test_a_first_start_that_the_system_refuses_is_told_at_once() -> None:
    async with bench() as one:
        one.refusals = [OSError(errno.EAGAIN, "EAGAIN")]
        assert (await failure_of(one)).exit_code == ExitCode.RESOURCE


async def test_one_that_waits_for_the_system_stops_when_told_to() -> None:
    async with bench() as one:
        worker = await one.ready_worker()
        one.refusals = [OSError(errno.EAGAIN, "EAGAIN")] * 1000
        worker.end(KILLED)
        await asyncio.sleep(3)
        one.supervisor.expect_end()
        await asyncio.wait_for(one.running, 1)


async def test_a_socket_that_is_gone_is_red_and_made_anew() -> None:
    async with bench() as one:
        worker = await one.ready_worker()
        worker.reach = "gone"
        await asyncio.sleep(2)
        assert one.health[0] is False
        assert "cannot be reached" in one.health[1]
        assert messages.ListenAgain() in worker.sent
        worker.reach = "answers"
        await asyncio.sleep(2)
        assert one.health == (True, "ready: demo")
        assert len(one.workers) == 1


async def test_a_socket_that_stays_away_costs_the_worker() -> None:
    async with bench() as one:
        (await one.ready_worker()).reach = "gone"
        await asyncio.sleep(10)
        assert len(one.workers) == 2


async def test_a_socket_of_which_nothing_comes_is_left_to_the_liveness_of_its_loop() -> None:
    async with bench() as one:
        (await one.ready_worker()).reach = "silent"
        await asyncio.sleep(60)
        assert one.health == (True, "ready: demo")


async def test_the_socket_of_a_worker_that_leaves_is_not_missed() -> None:
    async with bench() as one:
        worker = await one.ready_worker()
        worker.say(messages.WorkerStopping(1))
        await settle()
        worker.reach = "gone"
        await asyncio.sleep(30)
        assert len(one.workers) == 1
        assert messages.ListenAgain() not in worker.sent
