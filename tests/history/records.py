"""A history: one line for each request as its client saw it, and one for each thing that was promised meanwhile.

Lines are JSON objects. Those with an ``event`` are the driver's, or the load's own; all others are requests. Every
time is ``time.monotonic()``, which all processes of a machine share on Linux. Nothing in it judges: the checker does.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

Kind = Literal["plain", "sse"]
#: How an exchange ended, for whoever looks at its bytes only:
#: ok: whole, with a status of 2xx. refused: whole, with any other. cut: the connection ended within the answer.
#: reset: it ended before the answer. unreachable: there was none. timeout: no end in time. left: the client did not wait.
Outcome = Literal["ok", "refused", "cut", "reset", "unreachable", "timeout", "left"]


@dataclass
class Request:
    """One request from its sending to its end."""

    id: str
    model: str  # the served name of the model that must answer; empty: nobody was expected to
    name: str  # what was asked for: that, or an alias
    kind: Kind
    asked_tokens: int
    t_due: float  # when the schedule wanted it sent, whatever had become of the others
    t_sent: float = 0.0
    t_first_byte: float | None = None
    t_end: float = 0.0
    outcome: Outcome = "ok"
    status: int = 0  # 0: there was no answer
    code: str = ""  # of an error: in the answer, or in an event
    retry_after: bool = False
    text: str = ""
    tokens: int = 0
    finish_reason: str = ""
    done: bool = False  # the last event was [DONE]
    error_event: bool = False
    strange: str = ""  # what does not belong into such an answer, in words
    answered_model: str = ""
    answered_name: str = ""  # what the worker was asked for
    answered_id: str = ""
    tag: str = ""
    instance: str = ""
    connection: int = 0  # the number of the last connection that it was sent on
    reused: bool = False  # which had carried requests before
    resent: int = 0  # a kept-alive connection ended under it before a byte: sent again on a fresh one


@dataclass(frozen=True)
class Event:
    """What happened, or was promised, at a moment."""

    event: str
    at: float
    said: dict[str, Any]


@dataclass
class History:
    requests: list[Request] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def of(self, *kinds: str) -> list[Event]:
        return [event for event in self.events if event.event in kinds]


_FIELDS = frozenset(each.name for each in fields(Request))


def parse(lines: Iterable[str | bytes]) -> History:
    """In the order of time."""
    history = History()
    for line in lines:
        said = json.loads(line)
        if "event" in said:
            history.events.append(Event(said.pop("event"), said.pop("at"), said))
        else:
            history.requests.append(Request(**{key: value for key, value in said.items() if key in _FIELDS}))
    history.requests.sort(key=lambda request: request.t_sent)
    history.events.sort(key=lambda event: event.at)
    return history


def read(path: Path) -> History:
    with path.open("rb") as file:
        return parse(file)


class Appender:
    """Writes whole lines to the end of a file that others write to as well."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, lines: bytes) -> None:
        written = os.write(self._fd, lines)
        assert written == len(lines), "the disk is full"

    def event(self, event: str, **said: Any) -> float:
        """Write an event that happens now; returns when that was."""
        at = float(said.pop("at", time.monotonic()))
        self.write(json.dumps({"event": event, "at": at, **said}).encode() + b"\n")
        return at

    def close(self) -> None:
        os.close(self._fd)
