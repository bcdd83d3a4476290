"""What the turns of all contenders become: figures, ratios round by round, and honest gaps."""

import pytest

from benchmarks.contenders import free_port
from benchmarks.front import comparison
from benchmarks.front.arena import DIRECT, Arena, Contender
from benchmarks.front.comparison import ADDED, CPU_REQUEST, RATE, Turns, not_compared, rows_of, table_of, take_turns
from benchmarks.front.cores import Cores
from benchmarks.front.gateways import HAPROXY, SMG, TCP_SPLICE
from benchmarks.front.load import Load, Turn
from benchmarks.front.our_front import NAME as OURS
from benchmarks.front.scripted_worker import Places
from tests.unit.benchmarks.conftest import Scripted


def turns_of(**rounds: list[tuple[float, float, float]]) -> Turns:
    """By contender: rate, CPU and latency of each round, the same under every load."""
    names = {"ours": OURS, "direct": DIRECT, "splice": TCP_SPLICE, "haproxy": HAPROXY}
    return Turns(
        {
            (load, names[name]): [Turn(per_s, cpu_us, p50_us, 0.5, 0.5) for per_s, cpu_us, p50_us in measured]
            for load in comparison.LOADS
            for name, measured in rounds.items()
        }
    )


TURNS = turns_of(
    direct=[(100, 0, 10), (50, 0, 20), (100, 0, 10)],
    ours=[(80, 30, 110), (42, 60, 220), (80, 30, 110)],
    splice=[(90, 20, 90), (45, 50, 120), (90, 25, 90)],
)


def test_what_slows_a_whole_round_down_cancels_out() -> None:
    rows = {row.figure: row for row in rows_of(TURNS)}
    assert rows["requests/s against direct"].rounds == pytest.approx([0.8, 0.84, 0.8])
    assert rows["CPU µs / request: front / TCP splice"].value == pytest.approx(1.2)
    assert rows["added p50 at 1 client, µs"].value == 100


def test_a_goal_with_somebody_who_is_not_here_is_told_and_not_judged() -> None:
    assert [row.figure for row in rows_of(TURNS) if HAPROXY in row.figure] == []
    assert "CPU µs / request: front / HAProxy ≤ 0.85" in not_compared(TURNS)
    with_haproxy = Turns(TURNS.taken | turns_of(haproxy=[(1, 40, 1)] * 3).taken)
    assert "CPU µs / request: front / HAProxy ≤ 0.85" not in not_compared(with_haproxy)
    (row,) = [row for row in rows_of(with_haproxy) if row.figure == "CPU µs / request: front / HAProxy"]
    assert row.is_met is True


def test_the_table_has_medians_and_no_cell_where_nothing_was_measured() -> None:
    table = table_of(TURNS, [DIRECT, OURS, SMG], {OURS: {"RSS idle, MB": 26.0}})
    assert table[OURS]["RSS idle, MB"] == {"median": 26.0}
    assert table[OURS][RATE.title] == {"median": 0.8, "low": 0.8, "high": 0.82}
    assert CPU_REQUEST.title not in table[DIRECT]
    assert ADDED.title not in table[DIRECT]
    assert table[SMG] == {}


@pytest.fixture
def arena(scripted: Scripted, any_cores: Cores) -> Arena:
    return Arena(any_cores, scripted.tree, Places([], []), [Contender(DIRECT, scripted.port, None)], {})


def test_a_peer_that_answers_wrongly_has_no_figure_under_that_load(arena: Arena) -> None:
    """It has gone: nobody listens there. The others are measured on."""
    arena.contenders.append(Contender(SMG, free_port(), None))
    turns = take_turns(arena, 2, 0.05, {"small": Load("plain", 1)})
    assert len(turns.taken["small", DIRECT]) == 2
    assert ("small", SMG) not in turns.taken
    assert "refused" in arena.failed[SMG]


def test_without_ours_there_is_nothing_to_compare(arena: Arena) -> None:
    with pytest.raises(RuntimeError, match="ichat's front: small: wrong"):
        arena.fail(OURS, "small: wrong")
