"""Which of a model's workers gets a request: one that knows its beginning, or the one with the least to do.

A worker that has failed rests; whether it has recovered is found out by a single request, then by the next one after
another rest. So one that fails fast, and therefore always has the least to do, does not become the favourite.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from ichat.front.affinity import PrefixMap

if TYPE_CHECKING:
    from ichat.front.request import Request
    from ichat.front.traffic import ModelTraffic
    from ichat.front.worker import Worker


class Balance:
    """Of one model with several workers."""

    __slots__ = ("_prefixes",)

    def __init__(self) -> None:
        self._prefixes = PrefixMap()

    def change(self, before: Sequence[Worker], workers: Sequence[Worker]) -> None:
        """One that is new starts level with the others: what they have served before is no reason to prefer it."""
        self._prefixes.keep(workers)
        stayed = [worker for worker in workers if worker in before]
        served = max((worker.served for worker in stayed), default=0)
        prompts = max((worker.prompts for worker in stayed), default=0)
        for worker in workers:
            if worker not in before:
                worker.served, worker.prompts = max(worker.served, served), max(worker.prompts, prompts)

    def pick(
        self, workers: Sequence[Worker], request: Request, traffic: ModelTraffic, tried: Collection[Worker]
    ) -> Worker | None:
        """None: all of them have been tried. When all rest it is as if none did."""
        now = time.monotonic()
        candidates = [worker for worker in workers if worker not in tried] if tried else workers
        rested = [worker for worker in candidates if worker.rests_until <= now]
        if not rested:
            return min(candidates, key=_load, default=None)
        doubtful = next((worker for worker in rested if worker.failures), None)
        if doubtful is not None and not tried:
            doubtful.begin_probe(request, now)
            return doubtful
        if doubtful is not None:  # a second try is the last one: not for finding out
            rested = [worker for worker in rested if not worker.failures] or rested
        least = min(rested, key=_load)
        return self._prefixes.choose(request.body, rested, least, traffic) if len(workers) > 1 else least


def _load(worker: Worker) -> tuple[int, int]:
    return worker.in_flight, worker.served
