"""What the front's ward knows of requests that ended with a front process."""

from __future__ import annotations

import pytest

from ichat.ipc import messages
from ichat.launcher.board import Board
from ichat.launcher.front import Front
from ichat.launcher.fronts import Fronts
from tests.unit.launcher.fakes import FakeProcess, settings

pytestmark = pytest.mark.looptime


@pytest.fixture
async def fronts() -> Fronts:
    one = Fronts(lambda number, name: FakeProcess(), Board(), settings())
    one.wards[0].begin(0)
    one.wards[0].take(messages.FrontUp())
    return one


@pytest.fixture
async def front(fronts: Fronts) -> Front:
    return fronts.wards[0]


async def test_what_it_held_before_the_withdrawal_is_no_matter_of_the_shutdown(front: Front, fronts: Fronts) -> None:
    front.take(messages.FrontLoad(3))
    front.gone("killed")
    fronts.withdraw()
    fronts.drain(1)
    assert fronts.drained.result() == 0


async def test_what_it_held_after_the_withdrawal_is_lost_and_told_with_the_next_ones(
    front: Front, fronts: Fronts
) -> None:
    fronts.withdraw()
    front.take(messages.FrontLoad(3))
    front.gone("killed")
    front.take(messages.FrontLoad(3))  # its last words, from before its death
    front.gone("killed, and buried")
    assert fronts.lost == 3
    front.begin(1)
    front.take(messages.FrontUp())
    fronts.drain(1)
    assert not fronts.drained.done()
    front.take(messages.FrontDrained(2))
    assert fronts.drained.result() == 5


async def test_what_it_held_during_the_drain_is_lost(front: Front, fronts: Fronts) -> None:
    fronts.withdraw()
    fronts.drain(1)
    front.take(messages.FrontLoad(2))
    front.gone("killed")
    assert fronts.drained.result() == 2


async def test_a_load_told_late_does_not_make_a_loss_of_a_complete_drain(front: Front, fronts: Fronts) -> None:
    fronts.withdraw()
    front.take(messages.FrontLoad(2))
    fronts.drain(1)
    front.take(messages.FrontDrained(0))
    front.stopped()
    assert fronts.drained.result() == 0


async def test_without_a_front_what_was_lost_is_told_at_once(front: Front, fronts: Fronts) -> None:
    fronts.withdraw()
    front.take(messages.FrontLoad(2))
    front.gone("killed")
    fronts.drain(1)
    assert fronts.drained.result() == 2


async def test_a_front_that_has_not_come_up_holds_nothing(front: Front, fronts: Fronts) -> None:
    front.gone("killed")
    front.begin(1)
    fronts.drain(1)
    assert fronts.drained.result() == 0
