"""Only the launcher ends a front."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from ichat.ipc import messages
from tests.unit.front.raw_client import request
from tests.unit.front.running_front import FrontUnderTest, running_front
from tests.unit.front.scripted_worker import ScriptedWorker, Turn


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
async def test_a_signal_to_every_process_ends_no_stream(worker: ScriptedWorker, number: signal.Signals) -> None:
    """As systemd stops a service, and as log rotation tells one to open its files again."""
    gate = asyncio.Event()

    async def stream(turn: Turn) -> None:
        await turn.start_events()
        await turn.chunk(b"data: 1\n\n")
        await gate.wait()
        await turn.chunk(b"data: [DONE]\n\n")
        await turn.send(b"0\r\n\r\n")

    worker.script = stream
    async with running_front(worker) as front:
        client = await front.connect()
        await client.send(request())
        while not front.front._traffic.in_flight:
            await asyncio.sleep(0.01)
        os.kill(os.getpid(), number)
        await asyncio.sleep(0.05)
        gate.set()
        assert (await client.response()).body.endswith(b"data: [DONE]\n\n")
        client.close()


async def test_a_front_that_has_drained_leaves_at_sigterm(front: FrontUnderTest) -> None:
    front.launcher.send(messages.Drain(time.monotonic() + 5))
    await front.hears(lambda message: isinstance(message, messages.FrontDrained))
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(2):
        while True:
            try:
                await asyncio.open_connection("127.0.0.1", front.port)
            except ConnectionRefusedError:
                return
            await asyncio.sleep(0.01)
