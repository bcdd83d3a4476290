"""What ichat itself tells a backend, apart from the engine's own arguments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from ichat.config.schema import Model, Timeouts
from ichat.ipc.messages import Phase


class News(Protocol):
    """Where a backend tells what happens to it. Calls come from the event loop and must return at once."""

    def phase(self, phase: Phase) -> None:
        """The start has reached the next phase."""

    def compiling(self, running: int, done: int) -> None:
        """So many compilers run now, and so many have ended since the start; told again and again."""

    def suspect(self, words: str) -> None:
        """The engine has not answered a probe in time; it may still be alive."""

    def recovered(self) -> None:
        """The engine under suspicion has answered after all."""

    def resting(self, words: str) -> None:
        """By command nothing is served now, as the words say."""

    def ready(self) -> None:
        """It serves again, or under other names; a real request has been answered."""

    def stopping(self, in_flight: int) -> None:
        """A stop was asked for, with so many requests inside the engine."""

    def residue(self, shm: list[str]) -> None:
        """The shared memory that the engine's processes hold now, all of it, as paths."""


@dataclass(frozen=True)
class FrameworkArgs:
    """ichat's own, checked arguments of one instance."""

    instance: str
    model: Model
    timeouts: Timeouts
    socket_path: str  # where the engine's app is served
    tmp_dir: str  # ours alone; emptied by cleanup()
    accelerator: Literal["cpu", "cuda"]
    news: News
    api_key: str | None = None

    @property
    def start_method(self) -> Literal["fork", "spawn"]:
        """How the engine starts its processes.

        A fork shares all that was imported and saves most of the start. A process that has initialised CUDA
        cannot be forked, and no GPU has shown yet that neither engine does so before it starts its children:
        there the engines' own way, spawn, is the default.
        """
        if self.model.start_method != "auto":
            return self.model.start_method
        return "fork" if self.accelerator == "cpu" else "spawn"
