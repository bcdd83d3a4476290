"""Judges a history: every request has exactly one honest end, by the right model, no older than was promised."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field

from tests.history.executions import Limits, judge
from tests.history.records import Event, History, Request

#: Refusals that are honest while a name comes or goes; each says what to do.
UNKNOWN = (404, "model_not_found")
NOT_YET = frozenset({(503, "model_loading"), (503, "model_draining"), (503, "queue_full")})


def fake_text(request: Request) -> str:
    """What the fake engine answers."""
    return "".join(f"word{number} " for number in range(request.asked_tokens))


@dataclass(frozen=True)
class Rules:
    """What holds in one test, apart from what always does."""

    text: Callable[[Request], str] | None = fake_text  # the whole answer; None: nobody knows it
    names_the_id: bool = True  # the engine says for whom an answer is
    repeats_the_name: bool = False  # it gives its name as it was asked for, by whatever alias (SGLang)
    notes: tuple[str, ...] | None = None  # the fake engines' own lines; None: they were not asked to write any
    most_executions: int = 1  # of one request that its client did not send again
    abort_within_s: float = 0.5  # an engine may work on after its client has left


@dataclass(frozen=True)
class Violation:
    rule: str
    words: str
    request: Request | None = None

    def __str__(self) -> str:
        line = f"{self.rule}: {self.words}"
        return line if self.request is None else f"{line}\n    {json.dumps(asdict(self.request))}"


@dataclass
class Verdict:
    history: History
    violations: list[Violation] = field(default_factory=list)
    kept: str = ""  # where to look for more

    @property
    def failed(self) -> int:
        """Requests that broke a rule."""
        return len({violation.request.id for violation in self.violations if violation.request is not None})

    @property
    def is_clean(self) -> bool:
        return not self.violations

    def assert_clean(self, log: str = "") -> None:
        if self.violations:
            raise AssertionError(f"{log[-6000:]}\n{self.report()}")

    def report(self, most: int = 10) -> str:
        """A summary, and the first violations in full."""
        requests = self.history.requests
        ends = Counter(request.outcome for request in requests)
        rules = Counter(violation.rule for violation in self.violations)
        lags = sorted(request.t_sent - request.t_due for request in requests if request.t_sent) or [0.0]
        took = sorted(request.t_end - request.t_sent for request in requests if request.outcome == "ok") or [0.0]
        lines = [
            f"{self.failed} failed of {len(requests)} requests over {_span_s(requests):.1f} s: "
            + ", ".join(f"{count} {end}" for end, count in ends.most_common()),
            f"  {sum(request.resent for request in requests)} sent again after an idle connection had been closed",
            f"  sent after its time: median {_at(lags, 0.5)}, p99 {_at(lags, 0.99)}, longest {_at(lags, 1)}",
            f"  answered in: median {_at(took, 0.5)}, p99 {_at(took, 0.99)}, longest {_at(took, 1)}",
            *(f"  {count} × {rule}" for rule, count in rules.most_common()),
        ]
        return "\n".join([*lines, *(str(violation) for violation in self.violations[:most]), self.kept]).rstrip()


def check(history: History, rules: Rules | None = None) -> Verdict:
    rules = rules or Rules()
    verdict = Verdict(history)
    names, tags = Names(history.of("served", "changing", "removed")), Tags(history)
    verdict.violations += _ends(history)
    for request in history.requests:
        broken = [*_judge(request, names, rules)]
        if request.outcome == "ok" and not broken:
            broken += tags.judge(request)
        verdict.violations += [Violation(rule, words, request) for rule, words in broken]
    if rules.notes is not None:
        limits = Limits(rules.most_executions, rules.abort_within_s)
        verdict.violations += [Violation("executions", *found) for found in judge(history, rules.notes, limits)]
    return verdict


_Broken = Iterator[tuple[str, str]]


def _ends(history: History) -> Iterator[Violation]:
    """Each request that a load has sent has one end, and nothing came that nobody had asked for."""
    ends = Counter(request.id for request in history.requests)
    for request in history.requests:
        if ends[request.id] > 1:
            yield Violation("one end", f"{request.id} has {ends[request.id]} ends", request)
    loads = history.of("load")
    if not loads:
        yield Violation("one end", "the load has not said how many requests it sent: it did not come to its end")
    for load in loads:
        ids = (f"{load.said['prefix']}-{number}" for number in range(load.said["sent"]))
        for missing in [one for one in ids if one not in ends]:
            yield Violation("one end", f"{missing} was sent and has no end")
    for stray in history.of("stray"):
        yield Violation("one end", f"connection {stray.said['connection']} got {stray.said['data']} without a request")


def _judge(request: Request, names: Names, rules: Rules) -> _Broken:
    expected = names.during(request)
    if request.outcome == "left":
        if request.strange:
            yield "whole answer", request.strange
    elif request.outcome == "ok":
        if expected == "removed":
            yield "removed", f"{request.name} was removed and has answered"
        yield from _judge_answer(request, rules)
    elif request.outcome == "refused" and expected != "served":
        yield from _judge_refusal(request, expected)
    else:
        yield "failed", f"{request.outcome} {request.status or ''} {request.code}".rstrip()


def _judge_answer(request: Request, rules: Rules) -> _Broken:
    if request.error_event:
        yield "failed", f"an error event: {request.code}"
        return
    if request.strange:
        yield "whole answer", request.strange
    if not request.finish_reason:
        yield "whole answer", "it has no finish reason"
    if request.kind == "sse" and not request.done:
        yield "whole answer", "it has no [DONE]"
    if rules.text is not None and request.text != rules.text(request):
        yield "whole answer", f"its text is {request.text[:80]!r}"
    if request.tokens != request.asked_tokens:
        yield "whole answer", f"{request.tokens} tokens instead of {request.asked_tokens}"
    yield from _judge_sender(request, rules)


def _judge_sender(request: Request, rules: Rules) -> _Broken:
    expected = request.name if rules.repeats_the_name else request.model
    if request.model and request.answered_model != expected:
        yield "right model", f"{request.name} is {request.model}, but {request.answered_model or 'nobody'} answered"
    if not rules.names_the_id:
        return
    if request.answered_id != request.id:
        yield "right request", f"the answer is for {request.answered_id or 'nobody'}"
    if request.answered_name != request.name:
        yield "right request", f"the worker was asked for {request.answered_name or 'nothing'}"


def _judge_refusal(request: Request, expected: str) -> _Broken:
    said = (request.status, request.code)
    if request.strange:
        yield "honest refusal", request.strange
    if said in NOT_YET:
        if expected == "removed":
            yield "honest refusal", f"{request.name} was removed, which is no {request.code}"
        elif not request.retry_after:
            yield "honest refusal", f"{request.code} without a Retry-After"
    elif said != UNKNOWN:
        yield "honest refusal", f"{request.status} {request.code or 'without a code'}"


class Names:
    """What was promised about each name, and when."""

    def __init__(self, events: list[Event]) -> None:
        self._at: dict[str, list[float]] = defaultdict(list)
        self._states: dict[str, list[str]] = defaultdict(list)
        for event in events:
            self._at[event.said["name"]].append(event.at)
            self._states[event.said["name"]].append(event.event)

    def during(self, request: Request) -> str:
        """*served* holds from the sending on; *removed* only as long as nothing has changed before the end."""
        times = self._at.get(request.name, [])
        sent, ended = bisect_right(times, request.t_sent), bisect_right(times, request.t_end)
        state = self._states[request.name][sent - 1] if sent else "served"
        return "changing" if state == "removed" and ended > sent else state


class Tags:
    """The oldest and the newest configuration that may answer for a model, and since when."""

    def __init__(self, history: History) -> None:
        self._oldest, self._newest = self._by_model(history, "promise"), self._by_model(history, "offered")

    @staticmethod
    def _by_model(history: History, kind: str) -> dict[str, tuple[list[float], list[int]]]:
        found: dict[str, tuple[list[float], list[int]]] = defaultdict(lambda: ([], []))
        for event in history.of(kind):
            times, tags = found[event.said["model"]]
            times.append(event.at)
            tags.append(event.said["tag"])
        return found

    def judge(self, request: Request) -> _Broken:
        for promises, moment, is_broken, words in (
            (self._oldest, request.t_sent, int.__lt__, "was promised when it was sent"),
            (self._newest, request.t_end, int.__gt__, "was the newest that was offered when it ended"),
        ):
            times, tags = promises.get(request.model, ([], []))
            known = bisect_right(times, moment)
            if not known:
                continue
            if not request.tag.isdigit():
                yield "right configuration", f"{request.model} answered without a tag"
            elif is_broken(int(request.tag), tags[known - 1]):
                yield "right configuration", f"{request.model} answered with {request.tag}; {tags[known - 1]} {words}"


def _span_s(requests: list[Request]) -> float:
    return max((r.t_end for r in requests), default=0.0) - min((r.t_due for r in requests), default=0.0)


def _at(numbers: list[float], share: float) -> str:
    return f"{1000 * numbers[min(len(numbers) - 1, int(share * len(numbers)))]:.1f} ms"
