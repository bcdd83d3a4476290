"""Changes under load: restarts and reloads in volume, and not one request is lost (FAULTS R3, and the promises of rollouts)."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from tests.faults.changing_models import ChangingModels
from tests.history.mix import Mix, Target
from tests.history.trial import NOTES, Trial
from tests.launcher_process import Launcher
from tests.volume import times

pytestmark = [pytest.mark.volume, pytest.mark.timeout(1500)]

#: All of it takes a quarter of an hour.
RESTARTS, RELOADS, REQUESTS = 50, times(200, 60), times(100_000, 20_000)
#: Requests a second: a third of what two cores bear while workers start, since what else the machine does is not known.
RATE = 250
#: It is changes that must lose nothing here; a machine that is too busy for a while only makes requests wait.
TIMEOUTS = {"linger_s": 0, "drain_s": 60, "hold_s": 60, "connect_s": 30}
PATIENT = {"limit_queued": 20_000}
#: Some clients leave early; tokens take so long that requests are always in flight.
TOKEN_S, LEFT = 0.005, 0.02


def script(it: Launcher, tag: int = 1) -> dict[str, Any]:
    return {"tag": str(tag), "token_s": TOKEN_S, "notes": str(it.home / NOTES)}


def assert_judged_clean(it: Launcher, trial: Trial, requests: int) -> None:
    verdict = trial.judge(abort_within_s=10)  # an engine may be busy starting; test_nobody_works_for_… is strict
    verdict.assert_clean(it.lines())
    assert len(verdict.history.requests) >= requests
    print(verdict.report())


def test_what_a_killed_worker_costs_does_not_escape_the_checker() -> None:
    """The other tests of this file mean something only if this one finds failures, and nothing but honest ones."""
    it = Launcher(timeouts=TIMEOUTS | {"hold_s": 0.5}, restarts={"enabled": True})
    it.configure(models={"a": {"engine_args": script(it) | {"token_s": 0.05}}})
    with it, Trial(it, Mix((Target("a", "a"),)), 100) as trial:
        trial.wait_until_sent(50, 20)
        os.kill(it.pids()["a/0"], signal.SIGKILL)
        trial.wait_until_sent(trial.load.sent + 200, 20)
        trial.load.stop()
        assert it.stop() == 0
        verdict = trial.judge(keeps=False)
    kinds = {(one.rule, one.request.outcome if one.request else "") for one in verdict.violations}
    assert {("failed", "ok"), ("failed", "refused")} & kinds, verdict.report()  # an error event, or a status
    assert kinds <= {(rule, end) for rule in ("failed", "executions") for end in ("ok", "refused")}, verdict.report()


def test_nobody_works_for_clients_that_left_while_they_waited() -> None:
    it = Launcher(timeouts=TIMEOUTS)
    it.configure(models={"a": PATIENT | {"rollout": "hold", "engine_args": script(it) | {"load_s": 1.5}}})
    with it, Trial(it, Mix((Target("a", "a"),), left=0.5), 50) as trial:
        it.order("restart", "a")
        trial.load.stop()
        assert it.stop() == 0
        verdict = trial.judge(abort_within_s=0.5)
    verdict.assert_clean(it.lines())
    waited = [one for one in verdict.history.requests if one.outcome == "ok" and one.t_end - one.t_sent > 1]
    assert waited, "the restart was too quick to show anything"


def test_rolling_restarts_lose_no_request() -> None:
    it = Launcher(timeouts=TIMEOUTS)
    shapes = {
        "two": {"instances": 2, "rollout": "surge"},
        "beside": {"instances": 1, "rollout": "surge"},
        "after": {"instances": 1, "rollout": "hold"},
    }
    it.configure(models={name: shape | PATIENT | {"engine_args": script(it)} for name, shape in shapes.items()})
    mix = Mix(tuple(Target(name, name) for name in shapes), left=LEFT)
    with it, Trial(it, mix, RATE) as trial:
        for number in range(RESTARTS):
            name = list(shapes)[number % len(shapes)]
            before = it.pids()
            it.order("restart", name)
            replaced = {pid for instance, pid in before.items() if instance.startswith(f"{name}/")}
            assert set(before.values()) & set(it.pids().values()) == set(before.values()) - replaced
        trial.wait_until_sent(REQUESTS, 600)
        trial.load.stop()
        assert it.stop() == 0
        it.assert_nothing_left()
        assert_judged_clean(it, trial, REQUESTS)


def test_random_reloads_lose_no_request_and_keep_their_promises() -> None:
    it = Launcher(timeouts=TIMEOUTS)
    changing = ChangingModels(int(os.environ.get("ICHAT_TEST_SEED", "4")), script(it))
    it.configure(models=changing.settings())
    trial = Trial(it, Mix(changing.targets(), left=LEFT), RATE)
    trial.promises.removed(*changing.absent())
    for model, tag in changing.tags().items():
        trial.promises.offered(model, tag)
        trial.promises.tag(model, tag)
    with it, trial:
        for number in range(RELOADS):
            reload_once(it, trial, changing, number)
        trial.wait_until_sent(REQUESTS, 600)
        trial.load.stop()
        assert it.stop() == 0
        assert_judged_clean(it, trial, REQUESTS)


def reload_once(it: Launcher, trial: Trial, changing: ChangingModels, number: int) -> None:
    before, change, promises = it.pids(), changing.change(), trial.promises
    promises.note(f"{number}: {change.words}")
    promises.changing(*change.going, *change.coming)
    for model, tag in change.tags.items():
        promises.offered(model, tag)
    it.configure(models=changing.settings())
    it.order("reload")
    promises.removed(*change.going)
    promises.served(*change.coming)
    for model, tag in change.tags.items():
        promises.tag(model, tag)
    trial.load.ask_for(Mix(changing.targets(), left=LEFT))
    after = it.pids()
    for model, count in change.kept.items():
        kept = [
            instance
            for instance, pid in before.items()
            if instance.startswith(f"{model}/") and after.get(instance) == pid
        ]
        assert len(kept) == count, f"{change.words}: {model}: {before} → {after}"
    assert len(after) == sum(one.instances for one in changing.models.values()), (change.words, after)
