"""How long a start takes: from exec to the first token, ichat against the engine's own command line."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.contenders import TITLES, Ichat, OwnServer, Server, model_of
from benchmarks.figures import Goal, Row, ratio_row
from benchmarks.options import Options, say

#: What the prototypes of this project reached on two cores.
_GOALS = {"vllm": Goal(0.32, is_upper=True), "sglang": Goal(0.47, is_upper=True)}


def run(options: Options) -> list[Row]:
    return [row for engine in options.engines for row in _compare(engine, options)]


def _compare(engine: str, options: Options) -> list[Row]:
    model = model_of(engine, options.model)
    contenders: dict[str, Callable[[], Server]] = {
        "own": lambda: OwnServer(model),
        "ichat": lambda: Ichat(model),
        "spawn": lambda: Ichat(model_of(engine, options.model, start_method="spawn")),
    }
    if not options.is_quick:
        say(f"{TITLES[engine]}: one start that does not count, so that all find the files in memory")
        _start(contenders["own"])
    took: dict[str, list[float]] = {name: [] for name in contenders}
    spent: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(options.rounds_or(3)):
        names = list(contenders)[:: 1 if number % 2 == 0 else -1]
        for name in names:
            first_token_s, cpu_s = _start(contenders[name])
            say(f"{TITLES[engine]}, {name}: {first_token_s:.1f} s, {cpu_s:.1f} s of CPU")
            took[name].append(first_token_s)
            spent[name].append(cpu_s)
    title = TITLES[engine]
    return [
        ratio_row(
            f"{title}: exec to first token, s", took["ichat"], took["own"], names=("ichat", "own"), goal=_GOALS[engine]
        ),
        ratio_row(f"{title}: CPU until then, s", spent["ichat"], spent["own"], names=("ichat", "own")),
        ratio_row(
            f"{title}: exec to first token with start_method spawn, s",
            took["spawn"],
            took["own"],
            names=("spawn", "own"),
        ),
    ]


def _start(contender: Callable[[], Server]) -> tuple[float, float]:
    """Seconds and seconds of CPU until the first token."""
    with contender() as server:
        return server.first_token_s(), server.tree.cpu_s()
