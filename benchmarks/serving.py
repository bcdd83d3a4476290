"""What ichat's way to the engine costs: its worker and its front against the engine's own server, side by side.

Both servers run at the same time and take turns: while one is measured, the processes of the other are stopped,
because an idle engine polls. A ratio compares neighbouring turns only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from benchmarks.contenders import NAME, TITLES, Ichat, OwnServer, Server, model_of
from benchmarks.figures import Goal, Row, median_row, ratio_row
from benchmarks.load import Address, Load, Measured, measure
from benchmarks.options import Options, say

_CLIENTS = (1, 8, 32)
_GOALS = {"front": Goal(0.97, is_upper=False), "worker": Goal(0.99, is_upper=False)}
_TURN_S = 2.0
#: Clients of equal answers fall into step with each other and with the engine's batches, and a first token then comes
#: early or late for a whole round. With pauses each request meets the engine in a phase of its own. The longest is
#: several steps of the engine long and yet short beside an answer; rates do not count it (`load.evaluate`).
_PAUSE_S = 0.05
_QUICK_TURN_S = 0.7


@dataclass
class Turns:
    """All turns of one contender under one shape of load."""

    measured: list[Measured] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)  # of the whole server, for a request

    def __getattr__(self, name: str) -> list[float]:
        return [getattr(one, name) for one in self.measured]


@dataclass(frozen=True)
class _Contender:
    name: str
    address: Address
    server: Server

    def take_turn(self, load: Load, turns: Turns) -> None:
        with self.awake():
            before_s = self.server.tree.cpu_s()
            measured = measure(self.address, load)
            turns.cpu_s.append((self.server.tree.cpu_s() - before_s) / measured.answers)
            turns.measured.append(measured)
            self.server.tree.assert_lives()

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        self.server.tree.thaw()
        try:
            yield
        finally:
            self.server.tree.freeze()


def run(options: Options) -> list[Row]:
    return [row for engine in options.engines for row in _compare(engine, options)]


def _compare(engine: str, options: Options) -> list[Row]:
    with _both(engine, options) as contenders:
        rows: list[Row] = []
        load_cores: list[float] = []
        for is_stream in (False, True):
            for clients in _CLIENTS:
                turn_s = _QUICK_TURN_S if options.is_quick else _TURN_S
                load = Load(NAME, clients, is_stream, turn_s, pause_s=_PAUSE_S if clients > 1 else 0.0)
                say(f"{TITLES[engine]}: {_shape(load)}")
                turns = _rounds(contenders, load, options.rounds_or(9, quick=2))
                rows += _rows(f"{TITLES[engine]} {_shape(load)}", load, turns)
                load_cores += [cores for one in turns.values() for cores in one.load_cores]
    return [*rows, median_row(f"{TITLES[engine]}: the load's own CPU", load_cores, unit="cores")]


@contextlib.contextmanager
def _both(engine: str, options: Options) -> Iterator[list[_Contender]]:
    """The three ways to the engine; each server starts while the other is stopped."""
    model = model_of(engine, options.model)
    say(f"{TITLES[engine]}: starting its own server, then ichat")
    with OwnServer(model) as own:
        own.first_token_s()
        own.tree.freeze()
        with Ichat(model) as ichat:
            ichat.first_token_s()
            contenders = [
                _Contender("own", own.address, own),
                _Contender("worker", ichat.worker_address, ichat),
                _Contender("front", ichat.address, ichat),
            ]
            ichat.tree.freeze()
            yield contenders


def _rounds(contenders: list[_Contender], load: Load, rounds: int) -> dict[str, Turns]:
    """Each round gives everybody a turn, to and fro, so that nobody always comes first."""
    turns = {contender.name: Turns() for contender in contenders}
    for number in range(rounds):
        for contender in contenders if number % 2 == 0 else contenders[::-1]:
            contender.take_turn(load, turns[contender.name])
    return turns


def _shape(load: Load) -> str:
    return f"{'stream' if load.is_stream else 'plain'}, {load.clients} client{'s' if load.clients > 1 else ''}"


def _rows(subject: str, load: Load, turns: dict[str, Turns]) -> list[Row]:
    own, rows = turns["own"], []
    for way, goal in _GOALS.items():
        ours = turns[way]
        names = (way, "own")
        rate = "tokens_per_s" if load.is_stream else "requests_per_s"
        figure = f"{subject}: {rate.removesuffix('_per_s')}/s, {way}"
        rows.append(ratio_row(figure, getattr(ours, rate), getattr(own, rate), names=names, goal=goal))
        if load.is_stream:
            # The other way round: everywhere 1 is equal, and more is better.
            figure = f"{subject}: first token, own s / {way} s"
            rows.append(ratio_row(figure, own.first_token_s, ours.first_token_s, names=("own", way), goal=goal))
    figure = f"{subject}: CPU s for a request, front"
    return [*rows, ratio_row(figure, turns["front"].cpu_s, own.cpu_s, names=("front", "own"))]
