"""A reload that hangs: it can be left, and holds up no other model. Workers are played; virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.launcher.fleet_bench import AtOnce, fleet_bench, model, settings_of

pytestmark = pytest.mark.looptime


class Hangs(AtOnce):
    """The first read hangs; those after it do not."""

    reads = 0

    async def run(self, call: Callable[[], Any]) -> Any:
        self.reads += 1
        if self.reads == 1:
            await asyncio.Event().wait()
        return await super().run(call)


async def test_the_next_reload_takes_over_from_one_whose_new_instance_hangs() -> None:
    async with fleet_bench(model("a"), model("b")) as bench:
        bench.stays_loading = lambda one: one.context_length == 1
        bench.file = settings_of(model("a", context_length=1), model("b"))
        hanging = asyncio.create_task(bench.reloader.reload())
        await asyncio.sleep(60)
        assert not hanging.done()
        bench.file = settings_of(model("a", context_length=2), model("b"))
        began = asyncio.get_running_loop().time()
        report = await bench.reloader.reload()
        assert asyncio.get_running_loop().time() - began < 12
        assert [change.subject for change in report.done] == ["models.a"]
        assert "a newer reload describes it otherwise" in (await hanging).failures["models.a"]
        assert [one.context_length for one in bench.models_served("a")] == [2]
        assert len(bench.models_served("b")) == 1


async def test_back_to_the_old_file_ends_a_reload_that_hangs() -> None:
    async with fleet_bench(model("a")) as bench:
        bench.stays_loading = lambda one: one.context_length == 1
        bench.file = settings_of(model("a", context_length=1))
        hanging = asyncio.create_task(bench.reloader.reload())
        await asyncio.sleep(60)
        bench.file = settings_of(model("a"))
        assert not (await bench.reloader.reload()).failures
        assert list((await hanging).failures) == ["models.a"]
        assert [one.context_length for one in bench.models_served("a")] == [None]


async def test_the_same_file_again_gives_nothing_up() -> None:
    async with fleet_bench(model("a")) as bench:
        bench.file = settings_of(model("a", context_length=1))
        first = asyncio.create_task(bench.reloader.reload())
        await asyncio.sleep(5)
        assert not (await bench.reloader.reload()).failures
        assert not (await first).failures
        assert [one.model.context_length for one in bench.started] == [None, 1]


async def test_what_a_newer_file_describes_otherwise_is_not_begun() -> None:
    async with fleet_bench(model("a"), model("b")) as bench:
        bench.file = settings_of(model("a", context_length=1), model("b", context_length=1))
        first = asyncio.create_task(bench.reloader.reload())
        await asyncio.sleep(5)
        bench.file = settings_of(model("a", context_length=1), model("b"))
        assert not (await bench.reloader.reload()).failures
        report = await first
        assert [change.subject for change in report.done] == ["models.a"]
        assert list(report.failures) == ["models.b"]
        assert [one.model.context_length for one in bench.started] == [None, None, 1]


async def test_a_reload_whose_file_hangs_goes_on_with_what_the_next_one_reads() -> None:
    async with fleet_bench(model("a")) as bench:
        bench.reloader._reads = Hangs("")
        bench.file = settings_of(model("a", context_length=1))
        hanging = asyncio.create_task(bench.reloader.reload())
        await asyncio.sleep(100)
        assert not hanging.done()
        assert not (await bench.reloader.reload()).failures
        assert not (await hanging).failures
        assert [one.context_length for one in bench.models_served("a")] == [1]


async def test_a_reload_that_hangs_holds_up_no_other_model() -> None:
    async with fleet_bench(model("a"), model("b")) as bench:
        bench.stays_loading = lambda one: one.context_length == 1
        bench.file = settings_of(model("a", context_length=1), model("b"))
        hanging = asyncio.create_task(bench.reloader.reload())
        await asyncio.sleep(60)
        async with asyncio.timeout(15):
            assert not (await bench.reloader.restart("b")).failures
            assert (await bench.reloader.drain("b", None, is_out=True)).done
            assert (await bench.reloader.drain("b", None, is_out=False)).done
        assert not hanging.done()


async def test_a_drain_is_taken_back_at_once() -> None:
    async with fleet_bench(model("a")) as bench:
        bench.fronts.busy.add("a/0")
        draining = asyncio.create_task(bench.reloader.drain("a", None, is_out=True))
        await asyncio.sleep(3)
        assert bench.ready == {"a": []}
        began = asyncio.get_running_loop().time()
        assert (await bench.reloader.drain("a", None, is_out=False)).done == ["a/0"]
        assert (await draining).unfinished == ["a/0"]
        assert asyncio.get_running_loop().time() - began < 0.1
        assert bench.ready == {"a": ["a/0"]}


async def test_a_restart_during_a_drain_by_command_ends_its_wait() -> None:
    async with fleet_bench(model("a")) as bench:
        bench.fronts.busy.add("a/0")
        draining = asyncio.create_task(bench.reloader.drain("a", None, is_out=True))
        await asyncio.sleep(1)
        restarting = asyncio.create_task(bench.reloader.restart("a"))
        await asyncio.sleep(12)
        bench.fronts.finish("a/0")
        assert not (await restarting).failures
        await draining
        assert bench.ready == {"a": []}, "what was drained by command stays so"
