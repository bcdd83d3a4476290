"""What the launcher says about itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ichat.ipc import messages
from ichat.launcher.board import Board
from ichat.launcher.status import ModelInfo, Status, after

LOADING = Status("demo/0", "demo", "fake", detail="starting", pid=7, incarnation="a", socket_path="/run/a.sock")
DEMO = ModelInfo("demo", ("demo", "gpt"), "fake", hold_s=30)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def board(clock: Clock) -> Board:
    board = Board(clock)
    board.front_words = None
    board.post_model(DEMO)
    board.post(replace(LOADING, since=clock.now))
    return board


def say(board: Board, *said: messages.Message) -> None:
    for message in said:
        board.post(after(board["demo/0"], message, board.clock()))


READY = messages.WorkerReady(["demo", "gpt"], ["generate"])


def test_words_of_a_load_count_the_seconds_of_the_phase(board: Board, clock: Clock) -> None:
    say(board, messages.WorkerPhase("weights"))
    clock.now += 12
    assert board.health() == (False, "loading demo: weights, 12 s")


def test_compiling_is_a_phase_with_a_count_and_the_seconds_since_its_first_kernel(board: Board, clock: Clock) -> None:
    say(board, messages.WorkerPhase("weights"), messages.WorkerCompiling(0))
    clock.now += 30
    say(board, messages.WorkerCompiling(12))
    clock.now += 4
    assert board.health() == (False, "loading demo: compiling kernels, 12 done, 34 s")
    assert board.routes().models[0].words == "compiling kernels, 12 done"
    say(board, messages.WorkerPhase("weights"))
    assert board.health() == (False, "loading demo: weights, 0 s")
    say(board, READY, messages.WorkerCompiling(13))
    assert board.health() == (True, "ready: demo")


def test_ready_names_the_model_and_routes_to_its_instance(board: Board) -> None:
    say(board, READY)
    assert board.health() == (True, "ready: demo")
    route = board.routes().models[0]
    assert (route.state, route.served_names, [one.name for one in route.instances]) == (
        "ready",
        ["demo", "gpt"],
        ["demo/0"],
    )


def test_a_front_that_does_not_serve_is_not_ready(board: Board) -> None:
    say(board, READY)
    board.post_front("the front does not answer", 7)
    assert board.health() == (False, "the front does not answer")


@pytest.mark.parametrize(("in_flight", "words"), [(0, "0 requests"), (1, "1 request"), (3, "3 requests")])
def test_leaving_is_red_whatever_comes_later(board: Board, in_flight: int, words: str) -> None:
    board.withdraw()
    say(board, READY)
    board.in_flight = in_flight
    assert board.health() == (False, f"draining: {words} in flight")


def test_was_ready_stays_true_after_a_death(board: Board) -> None:
    assert not board.routes().was_ready
    say(board, READY)
    assert board.routes().was_ready
    say(board, messages.WorkerFailed(69, "E-ENG-DIED", "it died"))
    assert not board.has_ready
    assert board.routes().was_ready
    assert board.routes().models[0].instances == []


def test_a_worker_that_does_not_answer_is_out_of_the_routes(board: Board) -> None:
    say(board, READY)
    board.post(replace(board["demo/0"], is_hanging=True))
    route = board.routes().models[0]
    assert (route.state, route.instances, route.words) == ("starting", [], "it does not answer")
    assert board.health()[0] is False


def test_a_dead_workers_late_words_do_not_make_it_ready(board: Board) -> None:
    say(board, messages.WorkerFailed(69, "E-ENG-DIED", "it died"), READY)
    assert not board.has_ready


def test_requests_may_wait_for_a_worker_that_has_failed_until_it_is_given_up(board: Board) -> None:
    """Whether it is started again the supervisor says: `failed` would send those away who wait."""
    say(board, READY, messages.WorkerFailed(69, "E-ENG-DIED", "it died"))
    assert board.routes().models[0].state == "starting"
    assert board["demo/0"].words(board.clock()).startswith("cleaning up after demo: it died")


def test_an_adapter_is_routed_to_once_every_ready_instance_has_it(board: Board) -> None:
    say(board, READY)
    before = board.routes().models[0].served_names
    say(board, messages.WorkerReady(["demo", "demo:noise"], ["generate"]))
    assert board.routes().models[0].served_names == [*before, "demo:noise"]
    board.post(after(replace(board["demo/0"], instance="demo/1", state="starting"), READY, board.clock()))
    assert board.routes().models[0].served_names == before
    say(board, messages.WorkerResting("paused"))
    assert board.routes().models[0].served_names == before


def test_a_resting_engine_is_not_ready_until_its_worker_says_so(board: Board, clock: Clock) -> None:
    say(board, READY, messages.WorkerResting("asleep (level 1)"))
    clock.now += 7
    assert board["demo/0"].state == "starting"
    assert board.health() == (False, "resting demo: asleep (level 1), 7 s")
    assert board.routes().models[0].instances == []
    say(board, messages.WorkerSuspect("no answer"), messages.WorkerPhase("weights"))
    assert board.health()[0] is False
    say(board, READY)
    assert board.health()[0] is True


def test_requests_wait_for_a_model_that_is_changed_by_command_though_it_has_no_process(board: Board) -> None:
    say(board, READY)
    board.excuse("demo", is_excused=True)
    board.post(replace(board["demo/0"], is_out=True))
    states = [board.routes().models[0].state]
    board.post(replace(board["demo/0"], state="stopped", pid=None))
    states.append(board.routes().models[0].state)
    board.remove("demo/0")
    states.append(board.routes().models[0].state)
    assert states == ["starting"] * 3
    board.excuse("demo", is_excused=False)
    assert board.routes().models[0].state == "stopped"


def test_every_change_reaches_every_listener(board: Board) -> None:
    seen: list[bool] = []
    board.listen(lambda: seen.append(board.health()[0]))
    say(board, READY)
    board.withdraw()
    assert seen == [True, False]


def test_status_holds_what_the_table_shows(board: Board, clock: Clock) -> None:
    board.post(replace(board["demo/0"], pid=7, started=clock.now, restarts=2))
    clock.now += 90
    say(board, READY)
    status = board.status()
    assert status["ready"] is True
    assert status["instances"] == [
        {
            "model": "demo",
            "instance": "demo/0",
            "backend": "fake",
            "state": "ready",
            "words": "ready: demo",
            "pid": 7,
            "gpus": [],
            "uptime_s": 90,
            "restarts": 2,
            "weights": "as configured",
        }
    ]
