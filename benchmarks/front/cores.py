"""Who runs where: the gateway has a core of its own, load and workers share another, so it is the gateway that is measured."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Cores:
    """With a single core all share it, and rates tell little; CPU for a request still does."""

    load: int
    gateway: int

    @classmethod
    def here(cls) -> Cores:
        cores = sorted(os.sched_getaffinity(0))
        return cls(cores[0], cores[-1])

    @property
    def are_apart(self) -> bool:
        return self.load != self.gateway

    def take_for_load(self) -> None:
        """This process and what it starts from now on."""
        os.sched_setaffinity(0, {self.load})

    @contextlib.contextmanager
    def started_on(self, core: int) -> Iterator[None]:
        """What is started within runs on that core from its first instruction, and counts one core only."""
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {core})
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)
