"""Compilers come and go: the phase begins with the first, counts, and is over only after a pause."""

from ichat.worker.compile_phase import CompilePhase


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_without_a_compiler_there_is_nothing_to_tell() -> None:
    phase = CompilePhase(Clock())
    assert [phase.see(0, 0), phase.see(0, 0)] == [None, None]


def test_it_begins_counts_and_is_over_after_a_pause() -> None:
    clock = Clock()
    phase = CompilePhase(clock)
    assert phase.see(1, 0) == "compiles"
    assert phase.see(2, 0) is None, "nothing new"
    assert phase.see(1, 1) == "compiles"
    clock.now += 2
    assert phase.see(0, 1) is None, "the next one may be about to begin"
    clock.now += 2
    assert phase.see(0, 1) == "is over"
    assert phase.see(0, 1) is None
    assert phase.see(1, 1) == "compiles", "and again"


def test_one_that_came_and_went_between_two_looks_counts_too() -> None:
    phase = CompilePhase(Clock())
    assert phase.see(0, 1) == "compiles"
