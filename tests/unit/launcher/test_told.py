"""What people are told while it serves, and what may fail without harm: weights, clocks, hanging kills, comforts."""

from __future__ import annotations

import asyncio
import logging
import os
import time

import pytest

from ichat.config.schema import Timeouts
from ichat.ipc import messages
from ichat.launcher.app import _for_ever
from ichat.launcher.board import Board
from ichat.launcher.process import Child, Processes
from ichat.launcher.status import ModelInfo, Status
from ichat.system.process_table import Process
from tests.unit.launcher.fleet_bench import fleet_bench, model


@pytest.mark.looptime
async def test_weights_that_differ_are_told(caplog: pytest.LogCaptureFixture) -> None:
    async with fleet_bench(model(instances=2)) as bench:
        assert bench.board.status()["mixed_weights"] == {}
        bench.processes["demo/1"].say(messages.WorkerReady(["demo"], ["generate"], weights="/new"))
        with caplog.at_level(logging.WARNING):
            await asyncio.sleep(1)
        assert bench.board.status()["mixed_weights"] == {"demo": {"demo/0": "as configured", "demo/1": "/new"}}
        assert any("serve different weights (demo/0: as configured, demo/1: /new)" in one for one in caplog.messages)
        assert "weights of /new" in bench.board["demo/1"].words(0)
        bench.processes["demo/0"].say(messages.WorkerReady(["demo"], ["generate"], weights="/new"))
        await asyncio.sleep(1)
        assert bench.board.status()["mixed_weights"] == {}


def test_a_clock_that_is_set_back_shows_no_negative_times() -> None:
    board = Board()
    board.post_model(ModelInfo.of(model(), Timeouts()))
    since = time.time()
    board.post(Status("demo/0", "demo", "fake", detail="weights", since=since, started=time.monotonic()))
    board.clock = lambda: since - 3600
    status = board.status()
    assert 0 <= status["uptime_s"] < 60
    assert 0 <= status["instances"][0]["uptime_s"] < 60
    assert status["instances"][0]["words"] == "loading demo: weights, 0 s"


async def test_what_sigkill_does_not_end_is_not_waited_for_beyond_the_deadline() -> None:
    class InTheKernel(Processes):
        """What it looks at is always there; its pid is nobody's, so that nothing is hit."""

        def _look(self, child: Child) -> list[Process]:
            return [Process(child.pid, os.getpid(), child.pid, "D", 1)]

    processes = InTheKernel()
    child = Child("demo/0", 2**22 - 1)
    processes.must_end_by(time.monotonic() + 0.5)
    began = time.monotonic()
    assert await processes.kill_everything(child) == [child.pid]
    assert await processes.kill_everything(child) == [child.pid]
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("error", [OSError("no descriptor"), ImportError("aiohttp"), ZeroDivisionError()])
async def test_an_admin_port_that_fails_takes_nothing_along(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise error

    task = asyncio.create_task(_for_ever("the admin port", fail()))
    done, _ = await asyncio.wait({task}, timeout=0.05)
    assert not done
    assert "ichat: the admin port does not work any more" in caplog.text
    task.cancel()
