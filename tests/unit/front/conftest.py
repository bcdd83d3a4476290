"""The front under test runs on the loop that it is made for."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import uvloop
from front_harness import FrontUnderTest, ScriptedWorker, running_front, running_worker


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
