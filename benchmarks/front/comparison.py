"""All contenders side by side: every load in every round, and the figures of FRONT's table that the turns give."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.figures import Goal, Row, median_row, quartiles, ratio_row, rounded
from benchmarks.front.arena import DIRECT, Arena, Contender
from benchmarks.front.gateways import HAPROXY, SMG, TCP_SPLICE, UNIX_SPLICE, VLLM_ROUTER
from benchmarks.front.load import Load, Turn, UnexpectedAnswerError, take_turn
from benchmarks.front.our_front import NAME as OURS
from benchmarks.options import say

SMALL, ALONE, STREAMS, FLOOD, BIG_REQUEST, BIG_ANSWER = (
    "small requests, 32 clients",
    "small requests, 1 client",
    "64 streams with a chunk each 10 ms",
    "8 streams as fast as they are taken",
    "256 KB requests, 4 clients",
    "256 KB answers, 4 clients",
)
LOADS = {
    SMALL: Load("plain", 32),
    ALONE: Load("plain", 1),
    STREAMS: Load("pace-100", 64, events=100),
    FLOOD: Load("flood-5000", 8, events=5000),
    BIG_REQUEST: Load("plain", 4, prompt_bytes=256 * 1024),
    BIG_ANSWER: Load("large", 4),
}


@dataclass(frozen=True)
class Column:
    """A figure of the table: of which load, and what of its turns; ``than_direct`` compares it round by round."""

    title: str
    load: str
    figure: str
    than_direct: str = ""  # "ratio" or "difference"


CPU_REQUEST = Column("CPU µs / request", SMALL, "cpu_us")
RATE = Column("requests/s against direct", SMALL, "per_s", "ratio")
ADDED = Column("added p50 at 1 client, µs", ALONE, "p50_us", "difference")
CPU_CHUNK = Column("CPU µs / chunk, 64 streams", STREAMS, "cpu_us")
CHUNKS = Column("chunks/s against direct, 64 streams", STREAMS, "per_s", "ratio")
FLOODED = Column("chunks/s against direct, flood", FLOOD, "per_s", "ratio")
CPU_FLOOD = Column("CPU µs / chunk, flood", FLOOD, "cpu_us")
CPU_BIG_REQUEST = Column("CPU µs / 256 KB request", BIG_REQUEST, "cpu_us")
CPU_BIG_ANSWER = Column("CPU µs / 256 KB answer", BIG_ANSWER, "cpu_us")
BUSY = Column("its core's use, 32 clients", SMALL, "gateway_cores")
LOAD_BUSY = Column("the load's core's use, 32 clients", SMALL, "load_cores")
COLUMNS = (
    CPU_REQUEST, RATE, ADDED, CPU_CHUNK, CHUNKS, CPU_FLOOD, FLOODED, CPU_BIG_REQUEST, CPU_BIG_ANSWER, BUSY, LOAD_BUSY
)  # fmt: skip


@dataclass
class Turns:
    """By load and contender, one for each round. Who gave a wrong answer under a load has none of that load."""

    taken: dict[tuple[str, str], list[Turn]] = field(default_factory=dict)

    def rounds_of(self, column: Column, contender: str) -> list[float]:
        """Empty where there is nothing to tell."""
        own = [getattr(turn, column.figure) for turn in self.taken.get((column.load, contender), [])]
        direct = [getattr(turn, column.figure) for turn in self.taken.get((column.load, DIRECT), [])]
        if contender == DIRECT and (column.than_direct or column.figure in ("cpu_us", "gateway_cores")):
            return []
        if not own or not column.than_direct:
            return own
        pairs = list(zip(own, direct, strict=True))
        if column.than_direct == "ratio":
            return [value / other for value, other in pairs]
        return [value - other for value, other in pairs]


def take_turns(arena: Arena, rounds: int, turn_s: float, loads: Mapping[str, Load] = LOADS) -> Turns:
    """Each round gives everybody a turn under every load, to and fro, so that nobody always comes first."""
    turns, began = Turns(), time.monotonic()
    wrong: set[tuple[str, str]] = set()
    for number in range(rounds):
        for title, load in loads.items():
            for contender in arena.contenders[:: 1 if number % 2 == 0 else -1]:
                key = (title, contender.name)
                if key in wrong:
                    continue
                try:
                    turns.taken.setdefault(key, []).append(_turn(arena, contender, load, turn_s))
                except UnexpectedAnswerError as error:
                    arena.fail(contender.name, f"{title}: {error}")
                    wrong.add(key)
                    del turns.taken[key]
        left_s = (time.monotonic() - began) / (number + 1) * (rounds - number - 1)
        say(f"round {number + 1} of {rounds}; {left_s:.0f} s to go")
    return turns


def _turn(arena: Arena, contender: Contender, load: Load, turn_s: float) -> Turn:
    with contender.awake():
        pids = contender.tree.pids() if contender.tree else []
        return take_turn(
            contender.port,
            load,
            gateway=pids,
            workers=arena.worker.pids(),
            cores=arena.cores,
            duration_s=turn_s,
        )


# ---- figures --------------------------------------------------------------------------------------------------------

Table = dict[str, dict[str, dict[str, float]]]


def table_of(turns: Turns, contenders: Sequence[str], memory: Mapping[str, Mapping[str, float]]) -> Table:
    """By contender and title: the median of the rounds, and the ends of their middle half."""
    found: Table = {}
    for name in contenders:
        cells = {title: {"median": rounded(value)} for title, value in memory.get(name, {}).items()}
        for column in COLUMNS:
            if rounds := turns.rounds_of(column, name):
                low, high = quartiles(rounds)
                median = statistics.median(rounds)
                cells[column.title] = {"median": rounded(median), "low": rounded(low), "high": rounded(high)}
        found[name] = cells
    return found


#: FRONT's acceptance figures that are ratios: of which column, against whom, and the goal.
_RATIOS = (
    (CPU_REQUEST, TCP_SPLICE, "≤ 1.5"),
    (CPU_REQUEST, UNIX_SPLICE, ""),
    (CPU_REQUEST, "nginx", ""),
    (CPU_REQUEST, "nginx + Lua", ""),
    (CPU_REQUEST, HAPROXY, "≤ 0.85"),
    (CPU_REQUEST, VLLM_ROUTER, "≤ 0.45"),
    (CPU_REQUEST, SMG, "≤ 0.2"),
    (CPU_CHUNK, TCP_SPLICE, "≤ 1.3"),
    (CPU_CHUNK, UNIX_SPLICE, ""),
    (CPU_CHUNK, HAPROXY, ""),
    (CPU_CHUNK, VLLM_ROUTER, ""),
    (CPU_CHUNK, SMG, ""),
)
_AGAINST_DIRECT = ((RATE, "≥ 0.75"), (CHUNKS, "≥ 0.99"), (FLOODED, "≥ 1"))


def rows_of(turns: Turns) -> list[Row]:
    """What was promised of our front, as far as those are here that it is compared with; how the ratios come about."""
    rows = []
    for column, other, goal in _RATIOS:
        ours, theirs = turns.rounds_of(column, OURS), turns.rounds_of(column, other)
        if theirs:
            rows.append(
                ratio_row(f"{column.title}: front / {other}", ours, theirs, names=("front", other), goal=_goal(goal))
            )
    for column, goal in _AGAINST_DIRECT:
        sides = [[getattr(turn, column.figure) for turn in turns.taken[column.load, name]] for name in (OURS, DIRECT)]
        rows.append(ratio_row(column.title, *sides, names=("front", DIRECT), goal=_goal(goal)))
    return [*rows, median_row(ADDED.title, turns.rounds_of(ADDED, OURS), unit="µs")]


def _goal(text: str) -> Goal | None:
    return Goal.parse(text) if text else None


def not_compared(turns: Turns) -> list[str]:
    """The goals that need somebody who is not here, or whose answers were wrong."""
    return [
        f"{column.title}: front / {other} {goal}"
        for column, other, goal in _RATIOS
        if goal and not turns.rounds_of(column, other)
    ]
