"""Configurations that change at random are valid, and what is promised about them is what differs."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.faults.changing_models import ALIASES, MODELS, STILL, Change, ChangingModels


def changes(count: int, seed: int = 1) -> list[tuple[ChangingModels, Change, set[str]]]:
    changing = ChangingModels(seed, {})
    made = []
    for _ in range(count):
        before = changing.names()
        made.append((changing, changing.change(), before))
        assert_sound(changing, made[-1][1], before)
    return made


def assert_sound(changing: ChangingModels, change: Change, before: set[str]) -> None:
    names = Counter(name for one in changing.models.values() for name in one.aliases) + Counter(list(changing.models))
    assert set(names.values()) == {1}, "a name is given twice"
    assert change.going == before - set(names)
    assert change.coming == set(names) - before
    assert {*MODELS, *ALIASES} == changing.absent() | set(names) - {STILL}
    assert changing.models[STILL].tag == 1
    assert change.kept.get(STILL) == 2
    assert not {model for model in change.tags if change.kept.get(model)}, "one with another tag keeps its process"


@pytest.mark.parametrize("seed", range(5))
def test_every_change_is_sound(seed: int) -> None:
    changes(300, seed)


def test_every_kind_of_change_comes() -> None:
    made = [change for _, change, _ in changes(300)]
    words = " ".join(change.words for change in made)
    for kind in ("add", "remove", "tag", "instances", "aliases", "rollout", "limit", "env", "nothing"):
        assert f"{kind} " in words
    assert any(change.going & set(ALIASES) for change in made)
    assert any(change.going & set(MODELS) for change in made)


def test_a_model_that_comes_back_has_a_tag_of_its_own() -> None:
    seen: dict[str, int] = {}
    for _, change, _ in changes(300):
        for model, tag in change.tags.items():
            assert tag > seen.get(model, 0)
            seen[model] = tag
