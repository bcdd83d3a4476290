"""Restarts and reloads of the real engines under load: not one request is lost, beside the old instance or after it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.history.mix import Mix, Target
from tests.history.trial import Trial
from tests.launcher_process import ask
from tests.real_engine import ENGINES, RealLauncher
from tests.volume import IS_FULL, times

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

REQUESTS, RATE = times(2000, 600), 12  # a second, on two cores of which a starting engine takes most
#: Exactly so many tokens as were asked for, and the engine's own count of them.
BODY = {"temperature": 0, "ignore_eos": True}
COUNTED = {"stream_options": {"include_usage": True}}
NAMES = ("first", "second", "third")


def mix(alias: str) -> Mix:
    targets = (Target("demo", "demo", 3), Target("demo", alias))
    return Mix(targets, large=0, left=0.02, tokens=(1, 8), body=BODY, sse_body=COUNTED)


class Rolling:
    """A launcher whose only model is changed again and again."""

    def __init__(self, backend: str) -> None:
        self.it = RealLauncher(backend, model={"aliases": ["first"], "rollout": "surge", "limit_queued": 2000})
        self.trial = Trial(self.it, mix("first"), RATE, timeout_s=240)

    def pids(self) -> set[int]:
        return set(self.it.pids().values())

    def change(self, **settings: Any) -> None:
        """By a reload; every process is another one afterwards, unless it was not told what has changed."""
        before = self.pids()
        is_hot = set(settings) == {"aliases"} and self.it.backend == "sglang"
        self.it.model |= settings
        self.it.configure(models={"demo": self.it.model})
        self.it.order("reload", limit_s=300)
        assert before & self.pids() == (before if is_hot else set())

    def restart(self) -> None:
        before = self.pids()
        self.it.order("restart", "demo", limit_s=300)
        assert not before & self.pids()

    def rename(self, old: str, new: str, **settings: Any) -> None:
        """The alias, which is the only one."""
        promises = self.trial.promises
        promises.changing(old, new)
        self.change(aliases=[new], **settings)
        promises.removed(old)
        promises.served(new)
        self.trial.load.ask_for(mix(new))

    def longest(self) -> int:
        status, body = ask(self.it.port, "GET", "/v1/models")
        assert status == 200, body
        return int(next(one for one in json.loads(body)["data"] if one["id"] == "demo")["max_model_len"])


@pytest.mark.parametrize("backend", ENGINES)
def test_restarts_and_reloads_lose_no_request(backend: str) -> None:
    rolling = Rolling(backend)
    rolling.trial.promises.removed(*NAMES[1:])
    with rolling.it as it, rolling.trial as trial:
        if IS_FULL:
            rolling.restart()
        rolling.change(context_length=1024)
        assert rolling.longest() == 1024
        rolling.rename("first", "second")
        if IS_FULL:
            rolling.change(context_length=2048, rollout="hold")
            assert rolling.longest() == 2048
            rolling.restart()
        rolling.rename("second", "third", context_length=1536, rollout="hold")
        trial.wait_until_sent(REQUESTS, 300)
        trial.load.stop(240)
        assert it.stop() == 0
        verdict = trial.judge(text=None, names_the_id=False, repeats_the_name=backend == "sglang")
        verdict.assert_clean(it.lines())
        assert len(verdict.history.requests) >= REQUESTS
        it.assert_nothing_left()
    print(verdict.report())
