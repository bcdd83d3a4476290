"""Several front processes as one: to the shutdown, the board, a reload, and to each other."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from pydantic import SecretStr

from ichat.config.schema import Front as FrontSettings
from ichat.config.schema import Limits, Server, Settings
from ichat.ipc import messages
from ichat.ipc.messages import Message
from ichat.launcher.board import Board
from ichat.launcher.fronts import Fronts, Together
from ichat.launcher.process import Exit
from tests.unit.launcher.fakes import FakeProcess, settings

pytestmark = pytest.mark.looptime


def several(processes: int, server: Server | None = None) -> Settings:
    front = FrontSettings(processes=processes)
    return settings().model_copy(update={"front": front, "server": server or Server()})


class Bench:
    """Two fronts with the processes that a test plays."""

    def __init__(self, server: Server | None = None) -> None:
        self.board = Board()
        self.started: dict[int, list[FakeProcess]] = {0: [], 1: []}
        self.fronts = Fronts(self._start, self.board, several(2, server))

    def _start(self, number: int, name: str) -> FakeProcess:
        assert name == f"front/{number}"
        self.started[number].append(FakeProcess())
        return self.started[number][-1]

    def begin(self, number: int) -> None:
        self.fronts.wards[number].begin(len(self.started[number]))

    def come_up(self, *numbers: int) -> None:
        for number in numbers:
            self.begin(number)
            self.say(number, messages.FrontUp())

    def say(self, number: int, message: Message) -> None:
        self.fronts.wards[number].take(message)

    def heard(self, number: int, kind: type[Message]) -> list[Message]:
        return [message for message in self.started[number][-1].sent if isinstance(message, kind)]


@pytest.fixture
async def bench() -> Bench:
    one = Bench()
    one.come_up(0, 1)
    return one


async def test_the_port_is_served_as_long_as_one_serves(bench: Bench) -> None:
    bench.fronts.wards[0].gone("restarting the front: killed")
    assert (bench.board.front_words, bench.board.front_pid) == (None, bench.started[1][-1].pid)
    bench.fronts.wards[1].gone("restarting the front: killed too")
    assert (bench.board.front_words, bench.board.front_pid) == ("restarting the front: killed", None)
    bench.come_up(0)
    assert bench.board.front_words is None


async def test_in_flight_is_the_sum(bench: Bench) -> None:
    bench.say(0, messages.FrontLoad(3))
    bench.say(1, messages.FrontLoad(4))
    assert bench.board.in_flight == 7
    bench.fronts.wards[0].gone("killed")
    assert bench.board.in_flight == 4


async def test_the_drain_is_over_when_all_have_drained_and_what_they_cut_off_is_added(bench: Bench) -> None:
    bench.fronts.withdraw()
    bench.fronts.drain(5)
    assert [bench.heard(number, messages.Drain) for number in (0, 1)] == [[messages.Drain(5)]] * 2
    bench.say(0, messages.FrontDrained(2))
    assert not bench.fronts.drained.done()
    bench.say(1, messages.FrontDrained(1))
    assert bench.fronts.drained.result() == 3


async def test_a_front_that_dies_in_the_drain_adds_what_it_held(bench: Bench) -> None:
    bench.fronts.withdraw()
    bench.say(1, messages.FrontLoad(4))
    bench.fronts.drain(5)
    bench.say(0, messages.FrontDrained(0))
    bench.fronts.wards[1].gone("killed")
    assert (bench.fronts.drained.result(), bench.fronts.lost) == (4, 4)


async def test_a_front_that_starts_during_a_withdrawal_is_told(bench: Bench) -> None:
    bench.fronts.withdraw()
    bench.fronts.wards[0].gone("killed")
    bench.come_up(0)
    assert bench.heard(0, messages.Withdraw) == [messages.Withdraw()]


async def test_new_limits_and_keys_reach_all_and_those_that_start_later(bench: Bench) -> None:
    server = Server(limits=Limits(body_bytes=7), api_keys={"alice": SecretStr("a"), "bob": SecretStr("b")})
    bench.fronts.configure(several(2, server))
    for number in (0, 1):
        (told,) = bench.heard(number, messages.Configure)
        assert isinstance(told, messages.Configure)
        assert (told.limits["body_bytes"], told.api_keys) == (7, {"alice": "a", "bob": "b"})
    bench.fronts.wards[1].gone("killed")
    bench.begin(1)
    start = bench.started[1][-1].sent[0]
    assert isinstance(start, messages.StartFront)
    assert (start.limits["body_bytes"], start.api_keys["alice"], start.number, start.processes) == (7, "a", 1, 2)


# ---- metrics --------------------------------------------------------------------------------------------------


async def test_a_question_for_metrics_goes_to_the_others_and_their_answers_to_who_asked(bench: Bench) -> None:
    bench.say(0, messages.AskMetrics(7))
    assert bench.heard(1, messages.TellMetrics) == [messages.TellMetrics(7, 0)]
    assert bench.heard(0, messages.TellMetrics) == []
    answer = messages.MetricsText(7, 0, 1, "text", is_last=True)
    bench.say(1, answer)
    assert bench.heard(0, messages.MetricsText) == [answer]


async def test_for_a_front_that_does_not_serve_nothing_is_answered_at_once(bench: Bench) -> None:
    bench.fronts.wards[1].gone("killed")
    bench.begin(1)
    bench.say(0, messages.AskMetrics(7))
    assert bench.heard(0, messages.MetricsText) == [messages.MetricsText(7, 0, 1, "", is_last=True)]


# ---- whose requests a worker still has ------------------------------------------------------------------------


class Routes:
    """A board that says what a test wants."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._now = messages.Routes([], was_ready=True)
        bench.board.routes = lambda: self._now  # type: ignore[method-assign]

    def are(self, *, offered: tuple[str, ...] = (), others: tuple[str, ...] = ()) -> None:
        def instances(incarnations: tuple[str, ...]) -> list[messages.Instance]:
            return [messages.Instance("qwen/0", incarnation, f"/{incarnation}") for incarnation in incarnations]

        model = messages.RouteModel("qwen", ["qwen"], "fake", "ready", "", 0.0, instances(offered))
        self._now = messages.Routes([model], was_ready=True, others=instances(others))
        self._bench.board.post_front(None, 1)  # any change


@pytest.fixture
async def routes(bench: Bench) -> Routes:
    return Routes(bench)


def numbers(bench: Bench) -> Mapping[int, int]:
    """Of the last Routes that each front got."""
    last = {number: bench.heard(number, messages.Routes)[-1] for number in (0, 1)}
    return {number: message.number for number, message in last.items() if isinstance(message, messages.Routes)}


def drained(bench: Bench, number: int, incarnation: str = "a", *, of: int | None = None) -> None:
    bench.say(number, messages.WorkerDrained("qwen/0", incarnation, of or numbers(bench)[number]))


async def test_a_worker_is_drained_when_every_front_has_said_so(bench: Bench, routes: Routes) -> None:
    calls: list[bool] = []
    bench.fronts.listen(lambda: calls.append(bench.fronts.drained_of("qwen/0", "a")))
    routes.are(offered=("a",))
    routes.are(others=("a",))
    assert not bench.fronts.drained_of("qwen/0", "a")
    drained(bench, 0)
    assert not bench.fronts.drained_of("qwen/0", "a")
    drained(bench, 1)
    assert bench.fronts.drained_of("qwen/0", "a")
    assert calls == [False, True]


async def test_a_front_that_died_holds_nothing(bench: Bench, routes: Routes) -> None:
    routes.are(offered=("a",))
    routes.are(others=("a",))
    drained(bench, 0)
    bench.fronts.wards[1].gone("killed")
    assert bench.fronts.drained_of("qwen/0", "a")


async def test_a_front_that_was_never_offered_the_worker_holds_nothing(bench: Bench, routes: Routes) -> None:
    bench.fronts.wards[1].gone("killed")
    routes.are(offered=("a",))
    routes.are(others=("a",))
    bench.come_up(1)
    assert not bench.fronts.drained_of("qwen/0", "a")
    drained(bench, 0)
    assert bench.fronts.drained_of("qwen/0", "a")


async def test_what_was_said_before_a_worker_came_back_does_not_count(bench: Bench, routes: Routes) -> None:
    routes.are(offered=("a",))
    routes.are(others=("a",))
    before = dict(numbers(bench))
    routes.are(offered=("a",))
    routes.are(others=("a",))
    drained(bench, 0, of=before[0])
    drained(bench, 1, of=before[1])
    assert not bench.fronts.drained_of("qwen/0", "a")
    drained(bench, 0)
    drained(bench, 1)
    assert bench.fronts.drained_of("qwen/0", "a")


async def test_other_changes_meanwhile_take_nothing_back(bench: Bench, routes: Routes) -> None:
    routes.are(offered=("a",))
    routes.are(others=("a",))
    said = dict(numbers(bench))
    routes.are(offered=("b",), others=("a",))
    drained(bench, 0, of=said[0])
    drained(bench, 1, of=said[1])
    assert bench.fronts.drained_of("qwen/0", "a")
    assert not bench.fronts.drained_of("qwen/0", "b")


async def test_a_worker_that_is_gone_is_drained_and_one_under_suspicion_that_is_back_is_not(
    bench: Bench, routes: Routes
) -> None:
    routes.are(offered=("a",))
    routes.are(others=("a",))
    drained(bench, 0)
    drained(bench, 1)
    routes.are(offered=("a",))
    assert not bench.fronts.drained_of("qwen/0", "a")
    routes.are(offered=("b",))
    assert bench.fronts.drained_of("qwen/0", "a")


# ---- the processes, for the shutdown --------------------------------------------------------------------------


class Supervised:
    def __init__(self, code: int | None, *, is_serving: bool) -> None:
        self.code, self.is_serving, self.is_expected = code, is_serving, False

    def expect_end(self) -> None:
        self.is_expected = True

    async def stop(self, limit_s: float) -> Exit | None:
        assert limit_s == 2
        return Exit(self.code, None)


async def test_together_they_serve_and_end_as_one() -> None:
    well, ill = Supervised(0, is_serving=False), Supervised(70, is_serving=True)
    both = Together([well, ill])
    assert both.is_serving
    both.expect_end()
    assert well.is_expected
    assert ill.is_expected
    assert await both.stop(2) == Exit(70, None)
    assert await Together([well]).stop(2) == Exit(0, None)
