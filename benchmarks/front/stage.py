"""Our front and two instances of its model, told of as the launcher would: where the promises are put to the test."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from benchmarks.front import witness
from benchmarks.front.our_front import OurFront, instances_at
from benchmarks.front.witness import Behaviour, Witness


class Stage:
    """The front, and two instances of its model that are new for each promise."""

    def __init__(self, front: OurFront, folder: Path) -> None:
        self.front, self._folder, self.port = front, folder, front.port
        self._numbers = itertools.count()

    @contextlib.asynccontextmanager
    async def two(self, behaviour: Behaviour = witness.answers) -> AsyncIterator[tuple[Witness, Witness]]:
        case = f"case{next(self._numbers)}"
        both = tuple(Witness(str(self._folder / f"{case}-{number}"), behaviour) for number in range(2))
        try:
            for one in both:
                await one.start()
            self.front.route(instances_at([one.path for one in both], case))
            yield both[0], both[1]
        finally:
            for one in both:
                one.kill()

    def new_incarnation(self) -> str:
        return f"anew{next(self._numbers)}"

    def tell(
        self,
        both: Sequence[Witness],
        incarnations: Sequence[str],
        *,
        without: int | None = None,
        is_drained: bool = False,
    ) -> None:
        """The routes from now on. The one that is left out is dead, or lives and is being drained."""
        instances = [
            instances_at([one.path for one in both], incarnation)[number]
            for number, incarnation in enumerate(incarnations)
        ]
        routed = [one for number, one in enumerate(instances) if number != without]
        others = [one for number, one in enumerate(instances) if number == without and is_drained]
        self.front.announce(routed, others)
