"""Which GPUs there are, who gets which, and whose turn it is to start."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ichat.errors import ResourceError
from ichat.launcher.devices import Turns, choose_gpus, gpus_needed, visible_gpus
from tests.unit.launcher.fleet_bench import model


@pytest.mark.parametrize(
    ("said", "ids"), [("0,1", ("0", "1")), (" GPU-a , 3 ", ("GPU-a", "3")), ("", ()), ("1", ("1",))]
)
def test_the_environment_says_which_may_be_given_away(said: str, ids: tuple[str, ...], tmp_path: Path) -> None:
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": said}, tmp_path) == ids


def test_else_every_device_file_is_one(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "nvidia-modeset"):
        (tmp_path / name).touch()
    assert visible_gpus({}, tmp_path) == ("0", "1")


def test_without_device_files_there_is_the_one_of_the_subsystem(tmp_path: Path) -> None:
    assert visible_gpus({}, tmp_path) == ()
    (tmp_path / "dxg").touch()
    assert visible_gpus({}, tmp_path) == ("0",)


def test_an_instance_needs_one_for_each_rank_unless_it_says_how_many() -> None:
    assert gpus_needed(model()) == 1
    assert gpus_needed(model(tensor_parallel_size=2, pipeline_parallel_size=2)) == 4
    assert gpus_needed(model(tensor_parallel_size=8, nnodes=2)) == 4
    assert gpus_needed(model(tensor_parallel_size=2, gpus=3)) == 3


def test_the_first_free_ones_are_given() -> None:
    assert choose_gpus(model(gpus=2), 0, ("0", "1", "2", "3"), ("0",)) == ("1", "2")


def test_named_ones_are_given_whoever_has_them() -> None:
    assert choose_gpus(model(gpus=(("2",), ("3",)), instances=2), 1, ("0",), ("3",)) == ("3",)


def test_too_few_are_told_with_the_way_out() -> None:
    with pytest.raises(ResourceError, match=r"demo/1: needs 2 GPUs, and of 3 that are visible 1 are free\. Lower"):
        choose_gpus(model(gpus=2), 1, ("0", "1", "2"), ("0", "1"))


@pytest.mark.looptime
async def test_turns_on_one_device_come_one_after_the_other() -> None:
    turns, told, began = Turns(), [], []

    async def start(devices: tuple[str, ...]) -> None:
        turn = turns.of(devices, lambda: told.append(devices))
        await turn.begin()
        began.append((devices, asyncio.get_running_loop().time()))
        await asyncio.sleep(10)
        turn.end()
        turn.end()

    await asyncio.gather(start(("0", "1")), start(("2",)), start(("1", "2")))
    assert [(devices, round(moment)) for devices, moment in began] == [(("0", "1"), 0), (("2",), 0), (("1", "2"), 10)]
    assert told == [("1", "2")]


@pytest.mark.looptime
async def test_who_gives_up_waiting_holds_nothing() -> None:
    turns = Turns()
    first = turns.of(("1",), lambda: None)
    await first.begin()
    second = turns.of(("0", "1"), lambda: None)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await second.begin()
    second.end()
    await turns.of(("0",), lambda: None).begin()
