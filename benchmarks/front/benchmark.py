"""The whole benchmark of the front: who holds what, everybody in turns, and what was promised of ours alone."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.figures import Findings, Goal, Row
from benchmarks.front import gateways, memory, promises
from benchmarks.front.arena import Arena, arena, environment, subfolder
from benchmarks.front.comparison import LOADS, Turns, not_compared, rows_of, table_of, take_turns
from benchmarks.front.load import UnexpectedAnswerError
from benchmarks.front.our_front import NAME as OURS
from benchmarks.front.our_front import OurFront
from benchmarks.options import Options, say

_ROUNDS = 7
_TURN_S, _QUICK_TURN_S = 0.8, 0.3
_MEMORY_GOALS = {memory.IDLE_MB: "≤ 50", memory.STREAM_KB: "≤ 10", memory.STALLED_MB: "≤ 5"}


def run(options: Options) -> Findings:
    rounds, turn_s = options.rounds_or(_ROUNDS), _QUICK_TURN_S if options.is_quick else _TURN_S
    with _folder() as folder, arena(folder) as this:
        for name, how in this.missing.items():
            say(f"{name} is not installed, and not compared: {how}")
        say(f"{len(this.contenders)} contenders, {len(LOADS)} loads, {rounds} rounds; one core for the gateway")
        held = _memory(this)
        turns = take_turns(this, rounds, turn_s)
    kept, unkept = _promises()
    rows = [*rows_of(turns), *_memory_rows(held), *kept]
    facts = _facts(this, turns, held) | {"rounds": rounds, "turn_s": turn_s, "unmeasured": unkept}
    return Findings(rows, facts, [*not_compared(turns), *unkept])


def _memory(this: Arena) -> dict[str, Mapping[str, float]]:
    """Of all that could be measured; in the beginning, because gateways keep what a load made them take."""
    held = {}
    for contender in this.contenders:
        say(f"memory: {contender.name}")
        try:
            held[contender.name] = memory.measure_memory(contender)
        except (OSError, UnexpectedAnswerError) as error:
            this.fail(contender.name, f"memory: {error}")
    return held


def _memory_rows(held: Mapping[str, Mapping[str, float]]) -> list[Row]:
    return [Row(figure, held[OURS][figure], goal=Goal.parse(goal)) for figure, goal in _MEMORY_GOALS.items()]


def _promises() -> tuple[list[Row], dict[str, str]]:
    """On a front of their own, on any core: they are about what happens, not what it costs."""
    with _folder() as folder, OurFront(subfolder(folder, "ours"), environment()) as front:
        return uvloop.run(promises.keep_promises(front, folder))


def _facts(this: Arena, turns: Turns, held: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    names = [contender.name for contender in this.contenders]
    versions = {gateway.name: gateway.version() for gateway in gateways.GATEWAYS}
    return {
        "cores_are_apart": this.cores.are_apart,
        "contenders": {name: versions.get(name) for name in names},
        "missing": this.missing,
        "failed": this.failed,
        "not_compared": not_compared(turns),
        "table": table_of(turns, names, held),
    }


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ichat-bench-", ignore_cleanup_errors=True) as name:
        yield Path(name)
