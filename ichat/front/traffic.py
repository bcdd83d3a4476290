"""What the front counts: plain numbers on the path of a request, text only when asked."""

from __future__ import annotations

from typing import Any, NamedTuple

from ichat.front.usage import tokens_of
from ichat.observe.metrics import Histogram

_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)

#: So many requests are added up in one go.
ENOUGH = 64
#: What is spent on retries: a tenth of the requests, and at one time as many more as are in flight, or a few.
_RETRY_SHARE = 0.1
_RETRY_FLOOR = 10


class ModelTraffic:
    """Of one model. ``queued`` requests wait for a worker now: who lets one wait adds it, and takes it away again."""

    __slots__ = ("affinity_hits", "affinity_misses", "left", "lost", "queued", "retries", "waited")

    def __init__(self) -> None:
        self.queued = 0
        self.waited = Histogram(_BUCKETS_S)  # seconds, of those that have waited
        self.affinity_hits = self.affinity_misses = 0  # of requests with a prefix that a worker has seen
        self.retries = self.lost = self.left = 0


class Timing:
    """How long requests of one model took on one route at one instance."""

    __slots__ = ("duration", "first_byte")

    def __init__(self) -> None:
        self.first_byte = Histogram(_BUCKETS_S)
        self.duration = Histogram(_BUCKETS_S)


class Flow:
    """Of one model on one route at one instance with one key."""

    __slots__ = (
        "by_status_class",
        "completion_tokens",
        "prompt_tokens",
        "received_bytes",
        "seconds",
        "sent_bytes",
        "timing",
    )

    def __init__(self, timing: Timing) -> None:
        self.timing = timing
        self.by_status_class = [0] * 6
        self.seconds = 0.0
        self.prompt_tokens = self.completion_tokens = 0
        self.received_bytes = self.sent_bytes = 0

    def add(self, ended: list[Ended]) -> None:
        # Column by column: what runs over many numbers at once is an order of magnitude quicker.
        _, _, _, _, statuses, durations, first_bytes, received, sent, tails = zip(*ended, strict=True)
        for status in statuses:
            self.by_status_class[status // 100] += 1
        self.seconds += sum(durations)
        self.timing.duration.observe_all(durations)
        self.timing.first_byte.observe_all([after_s for after_s in first_bytes if after_s is not None])
        self.received_bytes += sum(received)
        self.sent_bytes += sum(sent)
        for tail in tails:
            if tail and (tokens := tokens_of(tail)) is not None:
                self.prompt_tokens += tokens[0]
                self.completion_tokens += tokens[1]


class Ended(NamedTuple):
    """A request that has ended; "" for a model, a route or an instance that it did not get.

    ``first_byte_s`` is None where no byte of an answer came; ``tail`` is the end of what a worker said. Made as a plain
    tuple, in this order: where it is made that takes a third of the time.
    """

    model: str
    route: str
    instance: str
    key: str
    status: int
    duration_s: float
    first_byte_s: float | None
    received_bytes: int
    sent_bytes: int
    tail: bytes


class Traffic:
    """The front's counters. ``in_flight`` are the requests that a worker has, or that look for one.

    Whoever ends a request appends it to ``ended``, and calls `add_up` when there are enough.

    Names come from the configuration and the list of routes only, so that there is an end to them: a request for a
    model that is not served counts under "".
    """

    __slots__ = (
        "_most_in_flight",
        "_requests_seen",
        "_retry_debt",
        "connections",
        "cut",
        "ended",
        "faults",
        "flows",
        "in_flight",
        "left",
        "lost",
        "models",
        "refused",
        "requests",
        "timings",
    )

    def __init__(self) -> None:
        self.ended: list[Any] = []  # not added up yet
        self.timings: dict[tuple[str, str, str], Timing] = {}  # model, route, instance
        self.flows: dict[tuple[str, str, str, str], Flow] = {}  # model, route, instance, key
        self.models: dict[str, ModelTraffic] = {}
        self.refused: dict[tuple[str, str, str], int] = {}  # model, key, code
        self.cut: dict[tuple[str, str, str], int] = {}  # model, instance, code
        self.faults: dict[str, int] = {}  # by instance
        self.requests = self.in_flight = self.connections = 0
        self.lost = self.left = 0
        self._requests_seen = 0
        self._retry_debt = 0.0
        self._most_in_flight = 0  # at any retry since there was no debt

    # ---- requests -----------------------------------------------------------------------------------------

    def add_up(self) -> None:
        """What has ended since the last time. Called when ``ENOUGH`` have: in one go each costs a fraction."""
        ended, self.ended = self.ended, []
        groups: dict[Any, list[Any]] = {}
        for one in ended:
            groups.setdefault(one[:4], []).append(one)
        for names, group in groups.items():
            (self.flows.get(names) or self._open_flow(names)).add(group)

    def _open_flow(self, names: tuple[str, str, str, str]) -> Flow:
        self.model(names[0])
        flow = self.flows[names] = Flow(self.timings.setdefault(names[:3], Timing()))
        return flow

    def model(self, name: str) -> ModelTraffic:
        if (found := self.models.get(name)) is None:
            found = self.models[name] = ModelTraffic()
        return found

    # ---- beside it ----------------------------------------------------------------------------------------

    def refuse(self, code: str, model: str = "", key: str = "") -> None:
        """A request ends with an error of the front's own."""
        names = (model, key, code)
        self.refused[names] = self.refused.get(names, 0) + 1

    def cut_off(self, code: str, model: str, instance: str) -> None:
        """An answer that had begun ends early."""
        names = (model, instance, code)
        self.cut[names] = self.cut.get(names, 0) + 1

    def fault(self, instance: str) -> None:
        """A worker could not be reached, went away, or answered with a failure of its own."""
        self.faults[instance] = self.faults.get(instance, 0) + 1

    def lose(self, model: str) -> None:
        """A request's worker ended before the answer, and there was no other."""
        self.lost += 1
        self.model(model).lost += 1

    def leave(self, model: str) -> None:
        """A client left before the answer."""
        self.left += 1
        self.model(model).left += 1

    # ---- retries ------------------------------------------------------------------------------------------

    def refill_retries(self) -> None:
        """Called by the sweep: a tenth of the requests since the last one pays for retries."""
        earned = (self.requests - self._requests_seen) * _RETRY_SHARE
        self._requests_seen = self.requests
        self._retry_debt = max(0.0, self._retry_debt - earned)

    def spend_retry(self, model: str, *, is_free: bool = False) -> bool:
        # A worker that ends takes with it what it has: at most all that was in flight when the first of them failed.
        # Some of the others have had their answers by the time the last one fails.
        self._most_in_flight = max(self._most_in_flight if self._retry_debt else 0, self.in_flight)
        if not is_free and self._retry_debt + 1 > max(_RETRY_FLOOR, self._most_in_flight):
            return False
        self._retry_debt += not is_free
        self.model(model).retries += 1
        return True
