"""What the front's ward knows of requests that ended with a front process."""

from __future__ import annotations

import pytest

from ichat.ipc import messages
from ichat.launcher.board import Board
from ichat.launcher.front import Front
from tests.unit.launcher.fakes import FakeProcess, settings

pytestmark = pytest.mark.looptime


@pytest.fixture
async def front() -> Front:
    one = Front(FakeProcess, Board(), settings())
    one.begin(0)
    return one


async def test_what_it_held_before_the_withdrawal_is_no_matter_of_the_shutdown(front: Front) -> None:
    front.take(messages.FrontLoad(3))
    front.gone("killed")
    front.withdraw()
    front.drain(1)
    assert front.drained.result() == 0


async def test_what_it_held_after_the_withdrawal_is_lost_and_told_with_the_next_ones(front: Front) -> None:
    front.withdraw()
    front.take(messages.FrontLoad(3))
    front.gone("killed")
    front.take(messages.FrontLoad(3))  # its last words, from before its death
    front.gone("killed, and buried")
    assert front.lost == 3
    front.begin(1)
    front.drain(1)
    assert not front.drained.done()
    front.take(messages.FrontDrained(2))
    assert front.drained.result() == 5


async def test_what_it_held_during_the_drain_is_lost(front: Front) -> None:
    front.withdraw()
    front.drain(1)
    front.take(messages.FrontLoad(2))
    front.gone("killed")
    assert front.drained.result() == 2


async def test_a_load_told_late_does_not_make_a_loss_of_a_complete_drain(front: Front) -> None:
    front.withdraw()
    front.take(messages.FrontLoad(2))
    front.drain(1)
    front.take(messages.FrontDrained(0))
    front.stopped()
    assert front.drained.result() == 0


async def test_without_a_front_what_was_lost_is_told_at_once(front: Front) -> None:
    front.withdraw()
    front.take(messages.FrontLoad(2))
    front.gone("killed")
    front.drain(1)
    assert front.drained.result() == 2
