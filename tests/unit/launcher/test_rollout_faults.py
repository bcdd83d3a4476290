"""What may go wrong while a fleet is changed, in virtual time: nothing is lost, leaked, given twice or told wrongly."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ichat.config.schema import Model, Server, Timeouts
from ichat.errors import IchatError
from ichat.ipc import messages
from ichat.launcher import rollout
from ichat.launcher.fleet import Fleet
from ichat.launcher.process import Exit
from ichat.launcher.reload import Report
from tests.unit.launcher.fleet_bench import LOAD_S, FleetBench, fleet_bench, model, settings_of

pytestmark = pytest.mark.looptime
DAMAGED = Exit(65, None)  # no other start would help


def cuda(name: str = "demo", **changes: Any) -> Model:
    return model(name, **({"accelerator": "cuda"} | changes))


async def reload(bench: FleetBench, *models: Model, **sections: Any) -> Report:
    bench.file = settings_of(*models, **sections)
    return await bench.reloader.reload()


async def fail_for_good(bench: FleetBench, instance: str) -> None:
    bench.processes[instance].end(DAMAGED)
    await bench.fleet.until(lambda: bench.board[instance].state == "failed")


def gpus_in_use(bench: FleetBench) -> list[str]:
    return [gpu for member in bench.fleet.members.values() for gpu in bench.fleet.placement.used_by(member.spec)]


def fails_from(number: int) -> Any:
    """The ``number``th start of the new description, and each after it, does not get ready."""
    tries = 0

    def fails(one: Model) -> bool:
        nonlocal tries
        is_new = one.context_length == 13 or one.served_name == "new"
        tries += is_new
        return is_new and tries >= number

    return fails


# ---- who goes, who stays ------------------------------------------------------------------------------------------


async def test_what_has_failed_goes_before_what_serves() -> None:
    async with fleet_bench(model(instances=2)) as bench:
        await fail_for_good(bench, "demo/0")
        await reload(bench, model(instances=1))
        assert bench.ready == {"demo": ["demo/1"]}
        assert list(bench.fleet.members) == ["demo/1"]


async def test_what_is_drained_goes_before_what_serves() -> None:
    async with fleet_bench(model(instances=2)) as bench:
        await bench.reloader.drain("demo", "demo/0", is_out=True)
        await reload(bench, model(instances=1))
        assert bench.ready == {"demo": ["demo/1"]}


async def test_a_drained_instance_stays_drained_when_it_is_replaced() -> None:
    async with fleet_bench(model(instances=2)) as bench:
        await bench.reloader.drain("demo", "demo/0", is_out=True)
        await bench.reloader.restart("demo")
        assert len(bench.ready["demo"]) == 1
        assert sorted(one.shown_state for one in bench.board.instances_of("demo")) == ["draining", "ready"]


# ---- nothing is left of what failed -------------------------------------------------------------------------------


async def test_too_few_gpus_for_more_instances_leave_none_of_them() -> None:
    async with fleet_bench(cuda(), visible_gpus=("0", "1")) as bench:
        report = await reload(bench, cuda(instances=3))
        assert report.failures
        assert list(bench.fleet.members) == ["demo/0"]
        assert bench.reloader.settings.models[0].instances == 1


async def test_too_few_gpus_for_a_new_model_leave_none_of_it() -> None:
    async with fleet_bench(cuda("a"), visible_gpus=("0", "1", "2")) as bench:
        report = await reload(bench, cuda("a"), cuda("b", instances=3))
        assert report.failures
        assert bench.fleet.of("b") == []
        assert list(bench.ready) == ["a"]


@pytest.mark.parametrize("rollout", ["surge", "hold"])
async def test_new_names_are_taken_back_when_one_more_instance_fails(rollout: str) -> None:
    async with fleet_bench(model(rollout=rollout)) as bench:
        bench.cannot_load = fails_from(2)
        report = await reload(bench, model(rollout=rollout, served_model_name="new", instances=2))
        assert report.failures
        assert bench.board.routes().models[0].served_names == ["demo"]
        assert [one.served_name for one in bench.models_served("demo")] == ["demo"]
        assert bench.board.health()[0]


async def test_a_stop_in_a_surge_does_not_wait_for_those_that_load() -> None:
    async with fleet_bench(model(instances=3)) as bench:
        bench.file = settings_of(model(instances=3, served_model_name="new"))
        changing = asyncio.create_task(bench.reloader.reload())
        await asyncio.sleep(2.5 * LOAD_S)
        before = asyncio.get_running_loop().time()
        await bench.reloader.close()
        assert asyncio.get_running_loop().time() - before < 0.2
        with pytest.raises(IchatError, match="shutting down"):
            await changing


# ---- when nothing is alive any more -------------------------------------------------------------------------------


async def test_the_last_two_may_fail_while_one_of_them_is_on_trial() -> None:
    async with fleet_bench(model("a")) as bench:
        bench.cannot_load = lambda one: one.name == "b"
        bench.file = settings_of(model("a"), model("b"))
        changing = asyncio.create_task(bench.reloader.reload())
        await asyncio.sleep(LOAD_S / 2)
        bench.processes["a/0"].end(DAMAGED)
        await changing
        with pytest.raises(IchatError):
            await bench.fleet.over


async def test_removing_the_last_one_that_lives_ends_it() -> None:
    async with fleet_bench(model("a"), model("b")) as bench:
        await fail_for_good(bench, "a/0")
        await reload(bench, model("a"))
        with pytest.raises(IchatError):
            await bench.fleet.over


async def test_a_rollback_that_fails_leaves_what_serves() -> None:
    """The old weights are gone, say."""
    async with fleet_bench(model(instances=2, rollout="hold")) as bench:
        later = fails_from(2)
        bench.cannot_load = lambda one: one.context_length is None or later(one)
        report = await reload(bench, model(instances=2, rollout="hold", context_length=13))
        assert "what had been replaced before goes on serving" in report.failures["models.demo"]
        assert len(bench.ready["demo"]) == 1
        assert not bench.fleet.over.done()


# ---- GPUs ---------------------------------------------------------------------------------------------------------


async def test_a_surge_on_the_only_gpu_shares_it() -> None:
    async with fleet_bench(cuda(memory_fraction=0.4), visible_gpus=("0",)) as bench:
        report = await reload(bench, cuda(memory_fraction=0.4, context_length=1))
        assert not report.failures


async def test_auto_without_another_gpu_asks_how_much_memory_is_free() -> None:
    async with fleet_bench(cuda(rollout="auto"), visible_gpus=("0",)) as bench:
        choice = await chosen(bench.fleet, cuda(rollout="auto", context_length=1))
        assert choice == rollout.Choice("hold", "nvidia-smi does not tell how much GPU memory is free")


async def test_auto_takes_a_gpu_that_is_free() -> None:
    async with fleet_bench(cuda(rollout="auto"), visible_gpus=("0", "1")) as bench:
        choice = await chosen(bench.fleet, cuda(rollout="auto", context_length=1))
        assert choice == rollout.Choice("surge", "GPU 1 is free")


async def chosen(fleet: Fleet, new: Model) -> rollout.Choice:
    return await rollout.choose(fleet, fleet.of(new.name), new, 1)


async def test_auto_holds_where_not_all_at_once_have_room() -> None:
    async with fleet_bench(cuda(instances=2, rollout="auto"), visible_gpus=("0", "1", "2")) as bench:
        report = await reload(bench, cuda(instances=2, rollout="auto", served_model_name="new"))
        assert not report.failures
        assert bench.board.routes().models[0].served_names == ["new"]


async def test_a_named_gpu_that_somebody_has_is_not_given_twice() -> None:
    async with fleet_bench(cuda("a"), cuda("z"), visible_gpus=("0", "1", "2")) as bench:
        report = await reload(bench, cuda("a"), cuda("z"), cuda("b", gpus=(("0",),)))
        assert "is to run on GPU 0, which a/0 uses" in report.failures["models.b"]
        assert sorted(gpus_in_use(bench)) == ["0", "1"]


async def test_a_gpu_that_is_named_in_the_same_file_is_left_for_its_model() -> None:
    async with fleet_bench(model("a"), visible_gpus=("0", "1")) as bench:
        report = await reload(bench, model("a"), cuda("b"), cuda("c", gpus=(("0",),)))
        assert not report.failures
        assert sorted(gpus_in_use(bench)) == ["0", "1"]


async def test_who_was_alone_is_told_its_gpus_once_it_is_not() -> None:
    async with fleet_bench(cuda("a", rollout="hold"), visible_gpus=("0", "1", "2")) as bench:
        await reload(bench, cuda("a", rollout="hold"), cuda("b"))
        await reload(bench, cuda("a", rollout="hold", tensor_parallel_size=2), cuda("b"))
        assert bench.fleet.of("a")[0].spec.gpus == ("0", "2")


async def test_a_rollback_gives_back_the_old_gpus() -> None:
    old, new = (("0",), ("1",)), (("2",), ("3",))
    async with fleet_bench(cuda(instances=2, gpus=old, rollout="hold"), visible_gpus=("0", "1", "2", "3")) as bench:
        bench.cannot_load = fails_from(2)
        await reload(bench, cuda(instances=2, gpus=new, rollout="hold", context_length=13))
        assert [member.spec.gpus for member in bench.fleet.of("demo")] == [("0",), ("1",)]


async def test_fewer_instances_under_another_name_take_the_named_gpus() -> None:
    two, one = (("0",), ("1",)), (("2",),)
    async with fleet_bench(cuda(instances=2, gpus=two), visible_gpus=("0", "1", "2")) as bench:
        report = await reload(bench, cuda(instances=1, gpus=one, served_model_name="new"))
        assert not report.failures
        assert [member.spec.gpus for member in bench.fleet.of("demo")] == [("2",)]


async def test_what_cannot_be_placed_stops_nothing() -> None:
    async with fleet_bench(cuda("a", rollout="hold"), cuda("b"), visible_gpus=("0", "1")) as bench:
        old = bench.processes["a/0"]
        report = await reload(bench, cuda("a", rollout="hold", tensor_parallel_size=2), cuda("b"))
        assert report.failures
        assert not old.was_terminated


async def test_gpus_that_one_model_gives_up_may_go_to_another_in_one_reload() -> None:
    async with fleet_bench(cuda("a", rollout="hold"), cuda("b", instances=2), visible_gpus=("0", "1", "2")) as bench:
        report = await reload(bench, cuda("a", rollout="hold", tensor_parallel_size=2), cuda("b", instances=1))
        assert not report.failures
        assert len(set(gpus_in_use(bench))) == len(gpus_in_use(bench)) == 3


# ---- names --------------------------------------------------------------------------------------------------------


async def test_an_alias_that_was_taken_back_does_not_return_with_a_restart() -> None:
    async with fleet_bench(model(aliases=("x",))) as bench:
        bench.processes["demo/0"].end(Exit(None, 9))
        await asyncio.sleep(2)
        await reload(bench, model())
        await bench.fleet.until(lambda: bench.board.health()[0])
        assert bench.board.routes().models[0].served_names == ["demo"]


async def test_an_alias_that_was_taken_back_is_not_taken_for_an_adapter() -> None:
    async with fleet_bench(model(aliases=("x",))) as bench:
        await reload(bench, model())
        bench.processes["demo/0"].say(messages.WorkerReady(["demo", "x", "demo:sql"], ["generate"]))
        await asyncio.sleep(1)
        assert bench.board.routes().models[0].served_names == ["demo", "demo:sql"]


async def test_an_alias_that_moves_is_never_in_two_places() -> None:
    async with fleet_bench(model("b"), model("a", aliases=("x",))) as bench:
        seen = len(bench.fronts.routes)
        await reload(bench, model("b", aliases=("x",), context_length=1), model("a"))
        assert all(
            sum("x" in route.served_names for route in table.models) <= 1 for table in bench.fronts.routes[seen:]
        )
        assert bench.board.routes().models[0].served_names == ["b", "x"]


async def test_a_name_that_is_not_given_up_is_not_taken() -> None:
    async with fleet_bench(model("a", served_model_name="x"), model("b")) as bench:
        bench.cannot_load = lambda one: one.name == "a" and one.context_length == 13
        report = await reload(bench, model("a", context_length=13), model("b", aliases=("x",)))
        assert "the name x is still served by a" in report.failures["models.b"]
        assert [route.served_names for route in bench.board.routes().models] == [["x"], ["b"]]


# ---- what is told -------------------------------------------------------------------------------------------------


async def test_every_cut_off_request_is_told_whatever_the_change_was() -> None:
    async with fleet_bench(model("a"), model("b", instances=2), model("c", rollout="hold")) as bench:
        bench.fronts.busy |= {"a/0", "b/1", "c/0"}
        bench.cannot_load = lambda one: one.context_length == 13
        report = await reload(bench, model("b", instances=1), model("c", rollout="hold", context_length=13))
        assert sorted(report.cut_off) == ["a/0", "b/1", "c/0"]


async def test_requests_of_a_worker_that_dies_while_it_drains_are_told() -> None:
    async with fleet_bench(model()) as bench:
        bench.fronts.busy.add("demo/0")
        bench.file = settings_of(model(context_length=1))
        changing = asyncio.create_task(bench.reloader.reload())
        await asyncio.sleep(LOAD_S + 1)
        bench.processes["demo/0"].end(Exit(None, 9))
        assert (await changing).cut_off == ["demo/0"]


async def test_a_drain_that_runs_out_of_time_says_so_and_cuts_nothing_off() -> None:
    async with fleet_bench(model(instances=2)) as bench:
        bench.fronts.busy.add("demo/0")
        found = await bench.reloader.drain("demo", None, is_out=True)
        assert (found.done, found.unfinished) == (["demo/1"], ["demo/0"])
        assert not bench.processes["demo/0"].was_terminated


async def test_new_common_timeouts_reach_models_and_later_lives() -> None:
    async with fleet_bench(model("a"), model("b", start_s=1000)) as bench:
        await reload(bench, model("a"), model("b", start_s=5), timeouts=Timeouts(hold_s=5))
        assert [route.hold_s for route in bench.board.routes().models] == [5, 5]
        bench.cannot_load = lambda _one: False
        bench.processes["b/0"].end(Exit(None, 9))
        await asyncio.sleep(8)  # it would need ten
        assert [spec.name for spec in bench.started].count("b/0") == 3


async def test_a_restart_of_a_model_that_has_gone_is_refused() -> None:
    async with fleet_bench(model("a"), model("b")) as bench:
        bench.fronts.busy.add("a/0")
        bench.file = settings_of(model("b"))
        removing = asyncio.create_task(bench.reloader.reload())
        await asyncio.sleep(1)
        with pytest.raises(IchatError, match="a: is not served any more"):
            await bench.reloader.restart("a")
        await removing


async def test_what_waits_for_another_start_is_no_new_generation() -> None:
    async with fleet_bench(model()) as bench:
        for _ in range(3):
            report = await reload(bench, model(), server=Server(port=9000))
        assert (report.generation, len(report.pending)) == (1, 1)


async def test_limits_hold_although_more_instances_do_not_come() -> None:
    async with fleet_bench(model()) as bench:
        bench.cannot_load = lambda _one: True
        report = await reload(bench, model(instances=2, limit_concurrent=3))
        assert [change.kind for change in report.done] == ["hot"]
        assert bench.board.routes().models[0].limits["concurrent"] == 3
        assert list(report.failures) == ["models.demo"]


async def test_a_model_that_is_added_is_never_red() -> None:
    async with fleet_bench(model("a")) as bench:
        seen = len(bench.fronts.routes)
        await reload(bench, model("a"), model("b"))
        for table in bench.fronts.routes[seen:]:
            assert all(route.instances or route.is_excused for route in table.models)
