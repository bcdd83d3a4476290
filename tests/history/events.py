"""What the driver of a test promises about the answers, written into the history while requests are on their way."""

from __future__ import annotations

from pathlib import Path

from tests.history.records import Appender


class Promises:
    """Each is written at the moment from which it holds, for requests that are sent after it.

    A name that nothing was said about is served from the first request to the last. One that goes is *changing* and
    then *removed*, one that comes is *changing* and then *served*; while it changes, an answer and an honest refusal
    are both right.
    """

    def __init__(self, path: Path) -> None:
        self._history = Appender(path)

    def close(self) -> None:
        self._history.close()

    def tag(self, model: str, tag: int) -> None:
        """From now on nothing older than this configuration of the model answers."""
        self._history.event("promise", model=model, tag=tag)

    def offered(self, model: str, tag: int) -> None:
        """From now on this configuration may answer; nothing newer does."""
        self._history.event("offered", model=model, tag=tag)

    def changing(self, *names: str) -> None:
        """These names come or go: from now on they are answered, or refused honestly."""
        self._say("changing", names)

    def removed(self, *names: str) -> None:
        """From now on these names are unknown."""
        self._say("removed", names)

    def served(self, *names: str) -> None:
        """From now on these names are answered."""
        self._say("served", names)

    def note(self, words: str) -> None:
        """For whoever reads the history: what the driver does now."""
        self._history.event("note", words=words)

    def _say(self, event: str, names: tuple[str, ...]) -> None:
        for name in names:
            self._history.event(event, name=name)
