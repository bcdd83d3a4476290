"""Changes of a running fleet, in virtual time: who serves at each moment, and what happens when something fails."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ichat.config.schema import Limits, Server, Timeouts
from ichat.errors import ConfigError, IchatError, Problem
from ichat.launcher.process import Exit
from ichat.launcher.reload import Report
from tests.unit.launcher.fleet_bench import LOAD_S, FleetBench, fleet_bench, model, settings_of

pytestmark = pytest.mark.looptime


async def reload(bench: FleetBench, *models: Any, **sections: Any) -> Report:
    bench.file = settings_of(*models, **sections)
    return await bench.reloader.reload()


def always_ready(bench: FleetBench, name: str, since: int) -> bool:
    """Whether in every table that the front got since then the model had an instance to send requests to."""
    routes = [route for table in bench.fronts.routes[since:] for route in table.models if route.name == name]
    return bool(routes) and all(route.instances for route in routes)


async def test_all_instances_of_all_models_are_started() -> None:
    async with fleet_bench(model("a", instances=2), model("b")) as bench:
        assert bench.ready == {"a": ["a/0", "a/1"], "b": ["b/0"]}
        assert bench.board.health() == (True, "ready: a, b")


async def test_nothing_happens_when_nothing_has_changed() -> None:
    async with fleet_bench(model()) as bench:
        report = await reload(bench, model())
        assert (report.done, report.generation) == ([], 1)
        assert len(bench.started) == 1


async def test_a_surge_starts_the_new_one_before_it_drains_the_old_one() -> None:
    async with fleet_bench(model()) as bench:
        seen = len(bench.fronts.routes)
        report = await reload(bench, model(context_length=4096))
        assert [change.kind for change in report.done] == ["restart"]
        assert always_ready(bench, "demo", seen)
        assert bench.ready == {"demo": ["demo/1"]}
        assert bench.models_served("demo") == [model(context_length=4096)]
        assert "demo/0" not in bench.board
        assert bench.processes["demo/0"].burials > 0


async def test_a_hold_drains_the_old_one_first_and_requests_wait_longer_meanwhile() -> None:
    async with fleet_bench(model(rollout="hold")) as bench:
        seen = len(bench.fronts.routes)
        await reload(bench, model(rollout="hold", context_length=4096))
        without = [table.models[0] for table in bench.fronts.routes[seen:] if not table.models[0].instances]
        assert {route.hold_s for route in without if route.state != "ready"} == {300}
        assert all(route.is_excused for route in without)
        assert bench.board.routes().models[0].hold_s == 30
        assert bench.ready == {"demo": ["demo/0"]}


async def test_readiness_stays_green_while_a_model_is_changed_by_command() -> None:
    async with fleet_bench(model("a", rollout="hold"), model("b")) as bench:
        bench.file = settings_of(model("a", rollout="hold", context_length=1), model("b"))
        changing = asyncio.create_task(bench.reloader.reload())
        await asyncio.sleep(LOAD_S / 2)
        is_ready, words = bench.board.health()
        assert is_ready
        assert words.startswith("ready: b (loading a: ")
        await changing
        assert bench.board.health() == (True, "ready: a, b")


async def test_the_old_one_is_stopped_only_when_its_last_request_has_ended() -> None:
    async with fleet_bench(model()) as bench:
        bench.fronts.busy.add("demo/0")
        old = bench.processes["demo/0"]
        bench.file = settings_of(model(context_length=4096))
        changing = asyncio.create_task(bench.reloader.reload())
        await asyncio.sleep(LOAD_S + 20)
        assert bench.ready == {"demo": ["demo/1"]}
        assert not old.was_terminated
        bench.fronts.finish("demo/0")
        report = await changing
        assert old.was_terminated
        assert report.cut_off == []


async def test_requests_that_outlast_the_drain_are_cut_off_and_told() -> None:
    async with fleet_bench(model(drain_s=7)) as bench:
        bench.fronts.busy.add("demo/0")
        before = asyncio.get_running_loop().time()
        report = await reload(bench, model(drain_s=7, context_length=4096))
        assert report.cut_off == ["demo/0"]
        assert asyncio.get_running_loop().time() - before == pytest.approx(LOAD_S + 7, abs=0.5)


@pytest.mark.parametrize("rollout", ["surge", "hold"])
async def test_a_new_one_that_does_not_get_ready_is_rolled_back(rollout: str) -> None:
    async with fleet_bench(model(rollout=rollout)) as bench:
        bench.cannot_load = lambda one: one.context_length == 13
        report = await reload(bench, model(rollout=rollout, context_length=13))
        assert list(report.failures) == ["models.demo"]
        assert "The old configuration serves." in report.failures["models.demo"]
        assert bench.models_served("demo") == [model(rollout=rollout)]
        assert bench.board.health()[0]
        assert len(bench.ready["demo"]) == 1
        assert bench.reloader.settings.models == (model(rollout=rollout),)


@pytest.mark.parametrize("rollout", ["surge", "hold"])
async def test_a_failure_of_the_second_instance_takes_the_first_back_too(rollout: str) -> None:
    async with fleet_bench(model(instances=2, rollout=rollout)) as bench:
        tries = 0

        def second_fails(one: Any) -> bool:
            nonlocal tries
            tries += one.context_length == 13
            return one.context_length == 13 and tries > 1

        bench.cannot_load = second_fails
        report = await reload(bench, model(instances=2, rollout=rollout, context_length=13))
        assert report.failures
        assert bench.models_served("demo") == [model(instances=2, rollout=rollout)] * 2
        assert len(bench.ready["demo"]) == 2


async def test_a_failed_surge_never_touches_the_old_one() -> None:
    async with fleet_bench(model()) as bench:
        seen, old = len(bench.fronts.routes), bench.processes["demo/0"]
        bench.cannot_load = lambda one: one.context_length == 13
        await reload(bench, model(context_length=13))
        assert always_ready(bench, "demo", seen)
        assert not old.was_terminated
        assert bench.ready == {"demo": ["demo/0"]}


async def test_a_new_one_is_not_tried_again_and_again() -> None:
    async with fleet_bench(model()) as bench:
        bench.cannot_load = lambda one: one.context_length == 13
        await reload(bench, model(context_length=13))
        assert [spec.model.context_length for spec in bench.started] == [None, 13]


async def test_what_has_been_replaced_is_restarted_like_any_other() -> None:
    async with fleet_bench(model()) as bench:
        await reload(bench, model(context_length=4096))
        bench.processes["demo/1"].end(Exit(None, 9))
        await asyncio.sleep(LOAD_S + 2)
        assert bench.board.health()[0]


async def test_two_instances_are_replaced_one_after_the_other() -> None:
    async with fleet_bench(model(instances=2, rollout="hold")) as bench:
        seen = len(bench.fronts.routes)
        await reload(bench, model(instances=2, rollout="hold", context_length=1))
        assert always_ready(bench, "demo", seen)
        assert bench.ready == {"demo": ["demo/0", "demo/1"]}


async def test_only_what_changed_is_touched() -> None:
    async with fleet_bench(model("a"), model("b"), model("c")) as bench:
        kept = bench.processes["a/0"]
        await reload(bench, model("a"), model("b", context_length=1), model("d"))
        assert not kept.was_terminated
        assert sorted(bench.ready) == ["a", "b", "d"]
        assert [spec.name for spec in bench.started] == ["a/0", "b/0", "c/0", "b/1", "d/0"]


async def test_a_removed_model_is_not_found_from_then_on_and_finishes_what_it_has() -> None:
    async with fleet_bench(model("a"), model("b")) as bench:
        bench.fronts.busy.add("a/0")
        bench.file = settings_of(model("b"))
        changing = asyncio.create_task(bench.reloader.reload())
        await asyncio.sleep(1)
        routes = bench.board.routes()
        assert [route.name for route in routes.models] == ["b"]
        assert [one.name for one in routes.others] == ["a/0"]
        assert not bench.processes["a/0"].was_terminated
        bench.fronts.finish("a/0")
        await changing
        assert bench.board.routes().others == []


async def test_an_added_model_that_does_not_get_ready_is_not_there() -> None:
    async with fleet_bench(model("a")) as bench:
        bench.cannot_load = lambda one: one.name == "b"
        report = await reload(bench, model("a"), model("b"))
        assert list(report.failures) == ["models.b"]
        assert bench.ready == {"a": ["a/0"]}
        assert [one.name for one in bench.reloader.settings.models] == ["a"]


async def test_instances_come_and_go_without_touching_the_others() -> None:
    async with fleet_bench(model(instances=2)) as bench:
        await reload(bench, model(instances=3))
        assert bench.ready["demo"] == ["demo/0", "demo/1", "demo/2"]
        await reload(bench, model(instances=1))
        assert bench.ready["demo"] == ["demo/0"]
        assert [spec.name for spec in bench.started] == ["demo/0", "demo/1", "demo/2"]


async def test_limits_and_aliases_hold_at_once_and_restart_nothing() -> None:
    async with fleet_bench(model()) as bench:
        await reload(bench, model(limit_concurrent=3, aliases=("other",)), server=Server(limits=Limits(connections=7)))
        route = bench.board.routes().models[0]
        assert (route.limits["concurrent"], route.served_names) == (3, ["demo", "other"])
        assert bench.fronts.configured[-1].server.limits.connections == 7
        await reload(bench, model(), server=Server(limits=Limits(connections=7)))
        assert bench.board.routes().models[0].served_names == ["demo"]
        assert len(bench.started) == 1


@pytest.mark.parametrize("rollout", ["surge", "hold"])
async def test_new_names_hold_only_when_all_that_answer_to_them_are_there(rollout: str) -> None:
    async with fleet_bench(model(instances=2, rollout=rollout)) as bench:
        seen = len(bench.fronts.routes)
        await reload(bench, model(instances=2, rollout=rollout, served_model_name="new"))
        for table in bench.fronts.routes[seen:]:
            for one in table.models[0].instances:
                assert [bench.answers_to[one.incarnation]] == table.models[0].served_names
        assert bench.board.routes().models[0].served_names == ["new"]
        assert len(bench.ready["demo"]) == 2
        assert [one.served_name for one in bench.models_served("demo")] == ["new", "new"]


@pytest.mark.parametrize("rollout", ["surge", "hold"])
async def test_new_names_that_do_not_get_ready_leave_the_old_ones(rollout: str) -> None:
    async with fleet_bench(model(instances=2, rollout=rollout)) as bench:
        bench.cannot_load = lambda one: one.served_name == "new"
        report = await reload(bench, model(instances=2, rollout=rollout, served_model_name="new"))
        assert report.failures
        assert bench.board.routes().models[0].served_names == ["demo"]
        assert len(bench.ready["demo"]) == 2
        assert len(bench.fleet.members) == 2


async def test_a_restart_replaces_every_instance_by_its_like() -> None:
    async with fleet_bench(model(instances=2)) as bench:
        seen = len(bench.fronts.routes)
        before = [process.pid for process in bench.processes.values()]
        report = await bench.reloader.restart("demo")
        assert report.done[0].why == "by command"
        assert always_ready(bench, "demo", seen)
        assert len(bench.ready["demo"]) == 2
        assert not {bench.processes[name].pid for name in bench.ready["demo"]} & set(before)


async def test_a_restart_revives_what_had_failed_for_good() -> None:
    async with fleet_bench(model("a"), model("b")) as bench:
        bench.processes["a/0"].end(Exit(65, None))  # damaged model: no other start would help
        await bench.fleet.until(lambda: bench.board["a/0"].state == "failed")
        assert not bench.board.health()[0]
        assert bench.ready == {"a": [], "b": ["b/0"]}
        assert not bench.fleet.over.done()
        await bench.reloader.restart("a")
        assert bench.board.health() == (True, "ready: a, b")


async def test_the_fleet_is_over_when_nothing_is_alive_any_more() -> None:
    async with fleet_bench(model("a"), model("b")) as bench:
        bench.processes["a/0"].end(Exit(65, None))
        await bench.fleet.until(lambda: bench.board["a/0"].state == "failed")
        bench.processes["b/0"].end(Exit(65, None))
        with pytest.raises(IchatError, match="b/0"):
            await bench.fleet.over


async def test_what_only_a_start_changes_is_told_and_stays() -> None:
    async with fleet_bench(model()) as bench:
        report = await reload(bench, model(), server=Server(port=9000, limits=Limits(connections=7)))
        assert [change.subject for change in report.pending] == ["server.port"]
        assert bench.reloader.settings.server.port == 8000
        assert bench.reloader.settings.server.limits.connections == 7


async def test_a_wrong_configuration_changes_nothing_and_says_so() -> None:
    async with fleet_bench(model()) as bench:
        wrong = ConfigError([Problem("E-CFG-VALUE", "configs.yaml:3:7", "port: expected a whole number.")])

        def load() -> Any:
            raise wrong

        bench.reloader._load = load
        with pytest.raises(ConfigError):
            await bench.reloader.reload()
        assert bench.reloader.error == str(wrong)
        assert bench.reloader.generation == 1
        assert bench.fronts.configured == []


async def test_a_file_that_names_no_models_any_more_is_one_that_is_being_written() -> None:
    async with fleet_bench(model()) as bench:
        bench.names_models, bench.file = False, settings_of(model(context_length=1))
        for asked in (bench.reloader.plan, bench.reloader.reload):
            with pytest.raises(ConfigError, match=r"configs\.yaml names no models, and these are served: demo\."):
                await asked()
        assert len(bench.started) == 1
        bench.names_models = True
        assert (await bench.reloader.reload()).done
        assert len(bench.started) == 2


async def test_without_models_from_a_file_none_are_missed() -> None:
    async with fleet_bench(model()) as bench:
        bench.names_models = bench.reloader.names_models = False
        bench.file = settings_of(model(context_length=1))
        assert (await bench.reloader.reload()).done


async def test_a_storm_of_reloads_becomes_two() -> None:
    async with fleet_bench(model()) as bench:
        bench.file = settings_of(model(context_length=1))
        first = asyncio.create_task(bench.reloader.reload())
        await asyncio.sleep(1)
        bench.file = settings_of(model(context_length=2))
        later = [asyncio.create_task(bench.reloader.reload()) for _ in range(100)]
        await asyncio.gather(first, *later)
        assert [spec.model.context_length for spec in bench.started] == [None, 1, 2]
        assert bench.models_served("demo")[0].context_length == 2


async def test_a_reload_is_refused_while_leaving() -> None:
    async with fleet_bench(model()) as bench:
        bench.board.withdraw()
        with pytest.raises(IchatError, match="shutting down"):
            await reload(bench, model(context_length=1))
        assert len(bench.started) == 1


async def test_a_plan_tells_and_does_nothing() -> None:
    async with fleet_bench(model("a"), model("b")) as bench:
        bench.file = settings_of(model("a", context_length=1), model("b"))
        plan = await bench.reloader.plan()
        assert plan["unchanged"] == ["models.b"]
        assert [(one["subject"], one["kind"], one["rollout"]) for one in plan["changes"]] == [
            ("models.a", "restart", "surge (as configured)")
        ]
        assert len(bench.started) == 2


async def test_a_drained_instance_gets_nothing_until_it_is_put_back() -> None:
    async with fleet_bench(model(instances=2)) as bench:
        assert (await bench.reloader.drain("demo", "demo/0", is_out=True)).done == ["demo/0"]
        assert bench.ready == {"demo": ["demo/1"]}
        assert bench.board["demo/0"].shown_state == "draining"
        await bench.reloader.drain("demo", "demo/0", is_out=False)
        assert bench.ready == {"demo": ["demo/0", "demo/1"]}


async def test_new_timeouts_hold_for_drains_that_begin_later() -> None:
    async with fleet_bench(model()) as bench:
        await reload(bench, model(), timeouts=Timeouts(drain_s=3))
        bench.fronts.busy.add("demo/0")
        before = asyncio.get_running_loop().time()
        await reload(bench, model(context_length=1), timeouts=Timeouts(drain_s=3))
        assert asyncio.get_running_loop().time() - before == pytest.approx(LOAD_S + 3, abs=0.5)


async def test_starts_on_one_gpu_come_one_after_the_other() -> None:
    shared = {"accelerator": "cuda", "gpus": (("0",),), "memory_fraction": 0.4}
    async with fleet_bench(model("a", **shared), model("b", **shared), visible_gpus=("0", "1")) as bench:
        started = [bench.board[name].started for name in ("a/0", "b/0")]
        assert started[1] - started[0] >= LOAD_S
        assert [spec.gpus for spec in bench.started] == [("0",), ("0",)]


async def test_each_instance_gets_gpus_of_its_own() -> None:
    models = (model("a", accelerator="cuda", instances=2), model("b", accelerator="cuda", tensor_parallel_size=2))
    async with fleet_bench(*models, visible_gpus=("0", "1", "2", "3")) as bench:
        assert [spec.gpus for spec in bench.started] == [("0",), ("1",), ("2", "3")]
