"""A configuration that changes at random, always validly, and what each change promises to the clients."""

from __future__ import annotations

import random
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from tests.history.mix import Target

MODELS = tuple(f"m{number}" for number in range(6))
ALIASES = tuple(f"x{number}" for number in range(6))
#: Never changed, so that whatever happens to it is an accident.
STILL = "still"
_MOST = 4  # models beside it, for a machine with two cores


@dataclass
class One:
    """What may change of one model."""

    tag: int
    instances: int = 1
    aliases: tuple[str, ...] = ()
    rollout: str = "surge"
    limit_concurrent: int | None = None
    env: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """From one configuration to the next."""

    words: str
    going: frozenset[str]  # names
    coming: frozenset[str]
    tags: dict[str, int]  # of the models that are started with another one
    kept: dict[str, int]  # so many instances of each model keep their process


class ChangingModels:
    """``script`` is what the fake engines get beside their tag."""

    def __init__(self, seed: int, script: dict[str, Any]) -> None:
        self._dice, self._script = random.Random(seed), script
        self._tags = dict.fromkeys((STILL, *MODELS), 0)
        self.models = {STILL: One(self._new_tag(STILL), instances=2)}
        for name in MODELS[:2]:
            self._add(name)

    # ---- what it is now -----------------------------------------------------------------------------------

    def settings(self) -> dict[str, dict[str, Any]]:
        """The ``models`` of a configuration file."""
        return {
            name: {
                "instances": one.instances, "aliases": list(one.aliases), "rollout": one.rollout, "env": one.env,
                "limit_concurrent": one.limit_concurrent, "limit_queued": 20_000,
                "engine_args": self._script | {"tag": str(one.tag)},
            }
            for name, one in self.models.items()
        }  # fmt: skip

    def tags(self) -> dict[str, int]:
        return {name: one.tag for name, one in self.models.items()}

    def names(self) -> set[str]:
        return set(self.models).union(*(one.aliases for one in self.models.values()))

    def absent(self) -> set[str]:
        return {*MODELS, *ALIASES} - self.names()

    def targets(self) -> tuple[Target, ...]:
        """Half of the requests for the model that stays; now and then one for a name that is not there."""
        served = [(model, name) for model, one in self.models.items() for name in (model, *one.aliases)]
        changing = [Target(model, name) for model, name in served if model != STILL]
        absent = [Target("", name, 0.02) for name in sorted(self.absent())]
        return (Target(STILL, STILL, max(1, len(changing))), *changing, *absent)

    # ---- what becomes of it -------------------------------------------------------------------------------

    def change(self) -> Change:
        """One to three changes that take effect together."""
        before, names = deepcopy(self.models), self.names()
        words = [self._change_one(names) for _ in range(self._dice.choice((1, 1, 1, 2, 3)))]
        return Change(
            words=", ".join(words),
            going=frozenset(names - self.names()),
            coming=frozenset(self.names() - names),
            tags={
                name: one.tag for name, one in self.models.items() if name not in before or before[name].tag != one.tag
            },
            kept={name: _kept(before[name], one) for name, one in self.models.items() if name in before},
        )

    def _change_one(self, taken: set[str]) -> str:
        """``taken`` are the names of before: one that goes comes back under another model at the earliest next time."""
        dice, changing = self._dice, [name for name in self.models if name != STILL]
        free_models = [name for name in MODELS if name not in taken | self.names()]
        free_aliases = [name for name in ALIASES if name not in taken | self.names()]
        if free_models and (not changing or (len(changing) < _MOST and dice.random() < 0.2)):
            return f"add {self._add(dice.choice(free_models))}"
        if len(changing) > 1 and dice.random() < 0.15:
            name = dice.choice(changing)
            del self.models[name]
            return f"remove {name}"
        if not changing:
            return "nothing"
        name = dice.choice(changing)
        return f"{self._mutate(self.models[name], name, free_aliases)} of {name}"

    def _mutate(self, one: One, name: str, free_aliases: list[str]) -> str:
        dice = self._dice
        what = dice.choice(("tag", "tag", "instances", "aliases", "rollout", "limit", "env", "nothing"))
        match what:
            case "tag":
                one.tag = self._new_tag(name)
            case "instances":
                one.instances = dice.choice([number for number in (1, 2) if number != one.instances])
            case "aliases":
                kept = one.aliases[: dice.randint(0, len(one.aliases))]
                one.aliases = (*kept, *dice.sample(free_aliases, k=min(1, len(free_aliases))))
            case "rollout":
                one.rollout = "hold" if one.rollout == "surge" else "surge"
            case "limit":
                one.limit_concurrent = dice.choice((None, 20, 50))
            case "env":
                one.env = {"ROUND": str(dice.randrange(1000))}
        return what

    def _add(self, name: str) -> str:
        rollout = self._dice.choice(("surge", "hold"))
        self.models[name] = One(self._new_tag(name), self._dice.choice((1, 1, 2)), rollout=rollout)
        return name

    def _new_tag(self, name: str) -> int:
        self._tags[name] += 1
        return self._tags[name]


def _kept(before: One, after: One) -> int:
    """A process knows its tag and its environment; for anything else it need not be replaced."""
    is_restarted = (before.tag, before.env) != (after.tag, after.env)
    return 0 if is_restarted else min(before.instances, after.instances)
