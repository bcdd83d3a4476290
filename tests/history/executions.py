"""Compares what the clients saw with what the fake engines noted: who worked for whom, how often and until when."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tests.history.records import History, Request


@dataclass(frozen=True)
class Limits:
    most: int  # executions of one request that its client did not send again
    abort_within_s: float  # of an execution whose client has left


@dataclass
class Noted:
    """All executions of one request."""

    began: int = 0
    first: float = 0.0
    ends: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    last: float = 0.0

    @property
    def unfinished(self) -> int:
        return self.began - sum(self.ends.values())


def judge(history: History, notes: Iterable[str], limits: Limits) -> Iterator[tuple[str, Request | None]]:
    """An answer was computed to its end once, a refusal never was, and nobody works for a client that has left."""
    noted = _read(notes)
    for stranger in noted.keys() - {request.id for request in history.requests}:
        yield f"an engine worked for {stranger}, who is not in the history", None
    for request in history.requests:
        for words in _judge(request, noted.get(request.id, Noted()), limits):
            yield f"{request.id} {words}", request


def _judge(request: Request, noted: Noted, limits: Limits) -> Iterator[str]:
    most = 0 if request.outcome == "refused" else limits.most + request.resent
    if noted.began > most:
        yield f"was executed {noted.began} times, {most} at most"
    if request.outcome == "ok" and not noted.ends["whole"]:
        yield "was answered, but no engine has done all of it"
    if noted.unfinished:
        yield "has an execution without an end"
    late_s = noted.last - request.t_end
    if request.outcome == "left" and late_s > limits.abort_within_s:
        since_s = noted.first - request.t_end
        yield f"was worked on from {since_s:+.2f} s to {late_s:+.2f} s, as seen from the moment its client left"


def _read(notes: Iterable[str]) -> dict[str, Noted]:
    """Each line: the request, "began" or how it ended, and when."""
    noted: dict[str, Noted] = defaultdict(Noted)
    for line in notes:
        user, what, at = line.split()
        if what == "began":
            noted[user].began += 1
            noted[user].first = noted[user].first or float(at)
        else:
            noted[user].ends[what] += 1
            noted[user].last = max(noted[user].last, float(at))
    return noted
