"""The front's picture of one worker."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from ichat.config.schema import Timeouts
from ichat.front.worker import Worker
from ichat.ipc.messages import Instance


class Receiver:
    """Waits for a connection."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def connected(self, connection: object) -> None:
        self.told.append("connected")

    def connection_failed(self, failure: object) -> None:
        self.told.append("failed")


@pytest.fixture
def full(tmp_path: Path):
    """The path of a socket whose listener accepts nothing and whose backlog is full."""
    path = str(tmp_path / "http.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        waiting = []
        try:
            while True:
                waiting.append(socket.socket(socket.AF_UNIX))
                waiting[-1].setblocking(False)
                waiting[-1].connect(path)
        except BlockingIOError:
            yield path
        for each in waiting:
            each.close()


async def test_who_waits_for_a_connection_is_told_when_the_worker_dies(full: str) -> None:
    worker = Worker(Instance("demo/0", "1", full), Timeouts(), lambda fault: None)
    receiver = Receiver()
    worker.connect(receiver)
    await asyncio.sleep(0.05)
    assert receiver.told == []
    worker.end()
    await asyncio.sleep(0.05)
    assert receiver.told == ["failed"]


async def test_who_has_just_begun_to_wait_is_told_too(full: str) -> None:
    worker = Worker(Instance("demo/0", "1", full), Timeouts(), lambda fault: None)
    receiver = Receiver()
    worker.connect(receiver)
    worker.end()  # before the attempt has had its first turn
    await asyncio.sleep(0.05)
    assert receiver.told == ["failed"]
