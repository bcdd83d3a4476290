"""What the front counts: plain numbers on the path of a request, text only when asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ichat.front.usage import tokens_of
from ichat.observe.metrics import Histogram

if TYPE_CHECKING:
    from ichat.front.request import Request
    from ichat.front.worker import Worker

_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)

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

    def ended(self, status: int, duration_s: float, received_bytes: int, sent_bytes: int, answer: bytes) -> None:
        """``answer``: its end, at least; nothing where there was none."""
        if answer and (tokens := tokens_of(answer)) is not None:
            self.prompt_tokens += tokens[0]
            self.completion_tokens += tokens[1]
        self.by_status_class[status // 100] += 1
        self.seconds += duration_s
        self.timing.duration.observe(duration_s)
        self.received_bytes += received_bytes
        self.sent_bytes += sent_bytes


class RouteTraffic:
    """Of one model on one route with one key; ``at`` the worker that has a request, or none."""

    __slots__ = ("_flows", "_key", "_traffic", "model")

    def __init__(self, traffic: Traffic, key: tuple[str, str, str]) -> None:
        self._traffic, self._key = traffic, key
        self._flows: dict[str, Flow] = {}
        self.model = traffic.model(key[0])

    def at(self, worker: Worker | None) -> Flow:
        instance = "" if worker is None else worker.instance.name
        if (found := self._flows.get(instance)) is None:
            found = self._flows[instance] = self._traffic.open_flow(self._key, instance)
        return found


class Traffic:
    """The front's counters. ``in_flight`` are the requests that a worker has, or that look for one.

    Names come from the configuration and the list of routes only, so that there is an end to them: a request for a
    model that is not served counts under "".
    """

    __slots__ = (
        "_requests_seen",
        "_retry_debt",
        "_routes",
        "_timings",
        "connections",
        "cut",
        "faults",
        "flows",
        "in_flight",
        "left",
        "lost",
        "models",
        "refused",
        "requests",
    )

    def __init__(self) -> None:
        self._routes: dict[tuple[str, str, str], RouteTraffic] = {}
        self._timings: dict[tuple[str, str, str], Timing] = {}
        self.flows: dict[tuple[str, str, str, str], Flow] = {}  # model, route, instance, key
        self.models: dict[str, ModelTraffic] = {}
        self.refused: dict[tuple[str, str, str], int] = {}  # model, key, code
        self.cut: dict[tuple[str, str, str], int] = {}  # model, instance, code
        self.faults: dict[str, int] = {}  # by instance
        self.requests = self.in_flight = self.connections = 0
        self.lost = self.left = 0
        self._requests_seen = 0
        self._retry_debt = 0.0

    # ---- on the path of a request -------------------------------------------------------------------------

    def route(self, model: str, route: str, key: str = "") -> RouteTraffic:
        names = (model, route, key)
        if (found := self._routes.get(names)) is None:
            found = self._routes[names] = RouteTraffic(self, names)
        return found

    def unrouted(self, request: Request) -> RouteTraffic:
        """Of a request that got no model."""
        return self.route("", "" if request.route is None else request.route.name, request.key_name)

    def model(self, name: str) -> ModelTraffic:
        if (found := self.models.get(name)) is None:
            found = self.models[name] = ModelTraffic()
        return found

    def open_flow(self, names: tuple[str, str, str], instance: str) -> Flow:
        model, route, key = names
        timing = self._timings.setdefault((model, route, instance), Timing())
        flow = self.flows[model, route, instance, key] = Flow(timing)
        return flow

    # ---- beside it ----------------------------------------------------------------------------------------

    def refuse(self, code: str, model: str = "", key: str = "") -> None:
        """A request ends with an error of the front's own."""
        names = (model, key, code)
        self.refused[names] = self.refused.get(names, 0) + 1

    def cut_off(self, code: str, model: str, worker: Worker | None) -> None:
        """An answer that had begun ends early."""
        names = (model, "" if worker is None else worker.instance.name, code)
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
        # A worker that ends takes with it what it has, at most all that is in flight.
        if not is_free and self._retry_debt + 1 > max(_RETRY_FLOOR, self.in_flight):
            return False
        self._retry_debt += not is_free
        self.model(model).retries += 1
        return True

    @property
    def timings(self) -> Mapping[tuple[str, str, str], Timing]:
        """By model, route, instance."""
        return self._timings
