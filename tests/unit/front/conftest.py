"""The front under test runs on the loop that it is made for."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest
import uvloop

from tests.unit.front.running_front import FrontUnderTest, running_front
from tests.unit.front.scripted_worker import ScriptedWorker, running_worker


def pytest_configure(config: pytest.Config) -> None:
    ignored = "ignore:Overriding the .event_loop_policy:pytest.PytestDeprecationWarning"
    config.addinivalue_line("filterwarnings", ignored)


@pytest.fixture
def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
    return uvloop.EventLoopPolicy()


@pytest.fixture
async def worker() -> AsyncIterator[ScriptedWorker]:
    async with running_worker() as one:
        yield one


@pytest.fixture
async def front(worker: ScriptedWorker) -> AsyncIterator[FrontUnderTest]:
    """A front with one ready model, `demo`, on one worker."""
    async with running_front(worker) as one:
        yield one


async def until(is_it: Callable[[], bool], limit_s: float = 2.0) -> float:
    """How long it took."""
    began = time.monotonic()
    while not is_it():
        assert time.monotonic() - began < limit_s, "it never happened"
        await asyncio.sleep(0.002)
    return time.monotonic() - began
