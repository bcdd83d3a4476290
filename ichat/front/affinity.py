"""Which worker has seen the beginning of a request before: its prefix cache may still hold it."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ichat.front.traffic import ModelTraffic
    from ichat.front.worker import Worker

#: Where the part of a body begins that becomes the prompt. What stands before it varies without meaning.
_PROMPTS = (b'"messages"', b'"prompt"', b'"input"', b'"text"', b'"input_ids"')
_PROMPT_WITHIN_BYTES = 16 * 1024
_SHORTEST_BYTES = 256
_LONGEST_BYTES = 32 * 1024
#: Each length is a quarter more than the one before: that exactly is the length of a common beginning known.
_LENGTHS = tuple(
    itertools.takewhile(
        lambda length: length <= _LONGEST_BYTES, (int(_SHORTEST_BYTES * 1.25**step) for step in itertools.count())
    )
)
_ROOM = 32 * 1024


class PrefixMap:
    """The worker that was last sent a request with this beginning, for beginnings of several lengths.

    It holds two generations: when the young one is full it becomes the old one, whose entries are gone with the next.
    """

    __slots__ = ("_old", "_young")

    def __init__(self) -> None:
        self._young: dict[int, Worker] = {}
        self._old: dict[int, Worker] = {}

    def choose(
        self, body: bytes | bytearray, candidates: Collection[Worker], least: Worker, traffic: ModelTraffic
    ) -> Worker:
        """The one that knows at least half of the prompt, unless it has much more to do than the least busy one."""
        marks, size = marks_of(body)
        if not marks:
            return least
        chosen = self._known(marks, size, candidates)
        if chosen is None:
            chosen = min(candidates, key=_prompts)
            chosen.prompts += 1
        elif chosen.in_flight > 1.5 * least.in_flight + 8:
            chosen = least
            traffic.affinity_misses += 1
        else:
            traffic.affinity_hits += 1
        self._learn(marks, chosen)
        return chosen

    def keep(self, workers: Collection[Worker]) -> None:
        """Forget all others: they are gone."""
        self._young = {mark: worker for mark, worker in self._young.items() if worker in workers}
        self._old = {mark: worker for mark, worker in self._old.items() if worker in workers}

    def _known(self, marks: list[int], size: int, candidates: Collection[Worker]) -> Worker | None:
        for at in range(len(marks) - 1, -1, -1):
            # What is common to all (a short instruction, the form of the JSON) must not send all to one worker.
            if 2 * _LENGTHS[at] < size:
                return None
            worker = self._young.get(marks[at]) or self._old.get(marks[at])
            if worker is not None and worker in candidates:
                return worker
        return None

    def _learn(self, marks: list[int], worker: Worker) -> None:
        if len(self._young) >= _ROOM:
            self._old, self._young = self._young, {}
        self._young.update(dict.fromkeys(marks, worker))


def _prompts(worker: Worker) -> tuple[int, int]:
    """What comes with a new prompt stays: of two that are equally busy the one with fewer prompts gets it."""
    return worker.in_flight, worker.prompts


def marks_of(body: bytes | bytearray) -> tuple[list[int], int]:
    """A number for each of the prompt's beginnings, the shortest first, and the length of the prompt that counts."""
    if len(body) < _SHORTEST_BYTES:
        return [], 0
    start = 0
    for key in _PROMPTS:
        if (found := body.find(key, 0, _PROMPT_WITHIN_BYTES)) >= 0:
            start = found
            break
    size = min(len(body) - start, _LONGEST_BYTES)
    view = memoryview(body)[start : start + size]
    marks: list[int] = []
    mark = before = 0
    for length in _LENGTHS:
        if length > size:
            break
        mark = zlib.crc32(view[before:length], mark)
        marks.append(mark)
        before = length
    return marks, size
