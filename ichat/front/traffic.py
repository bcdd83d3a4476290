"""What the front counts: plain numbers on the path of a request, text only when asked."""

from __future__ import annotations

from ichat.observe.metrics import Histogram, family, sample

_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)

#: What is spent on retries: a tenth of the requests, and a few more when there is little traffic.
_RETRY_SHARE = 0.1
_RETRY_FLOOR = 10.0


class RouteTraffic:
    """Of one model on one route."""

    __slots__ = ("by_status_class", "duration", "first_byte")

    def __init__(self) -> None:
        self.by_status_class = [0] * 6
        self.first_byte = Histogram(_BUCKETS_S)
        self.duration = Histogram(_BUCKETS_S)


class Traffic:
    """The front's counters. ``in_flight`` are the requests that a worker has, or that look for one."""

    __slots__ = (
        "_requests_seen",
        "_retry_tokens",
        "_routes",
        "connections",
        "in_flight",
        "left",
        "lost",
        "refused",
        "requests",
        "retries",
    )

    def __init__(self) -> None:
        self._routes: dict[tuple[str, str], RouteTraffic] = {}
        self.refused: dict[str, int] = {}  # by code
        self.requests = self.in_flight = self.connections = 0
        self.retries = self.lost = self.left = 0
        self._requests_seen = 0
        self._retry_tokens = _RETRY_FLOOR

    def route(self, model: str, route: str) -> RouteTraffic:
        key = (model, route)
        if (found := self._routes.get(key)) is None:
            found = self._routes[key] = RouteTraffic()
        return found

    def refuse(self, code: str) -> None:
        self.refused[code] = self.refused.get(code, 0) + 1

    def refill_retries(self) -> None:
        """Called by the sweep: the requests since the last one pay for the retries until the next."""
        earned = (self.requests - self._requests_seen) * _RETRY_SHARE
        self._requests_seen = self.requests
        self._retry_tokens = min(self._retry_tokens + earned, max(_RETRY_FLOOR, earned))

    def spend_retry(self) -> bool:
        if self._retry_tokens < 1:
            return False
        self._retry_tokens -= 1
        self.retries += 1
        return True

    def render(self) -> str:
        totals = (
            ("ichat_front_connections", "gauge", "Client connections open now.", self.connections),
            ("ichat_front_in_flight", "gauge", "Requests in flight now.", self.in_flight),
            ("ichat_front_retries_total", "counter", "Requests sent to a second worker.", self.retries),
            ("ichat_front_worker_lost_total", "counter", "Requests whose worker ended before the answer.", self.lost),
            ("ichat_front_client_left_total", "counter", "Requests whose client left before the answer.", self.left),
        )
        lines: list[str] = []
        for name, kind, words, value in totals:
            lines += family(name, kind, words, [sample(name, {}, value)])
        name = "ichat_front_refused_total"
        refused = [sample(name, {"code": code}, count) for code, count in sorted(self.refused.items())]
        lines += family(name, "counter", "Requests that the front itself refused, by error code.", refused)
        return "\n".join([*lines, *self._render_routes()]) + "\n"

    def _render_routes(self) -> list[str]:
        requests, first_byte, duration = (
            "ichat_front_requests_total",
            "ichat_front_first_byte_seconds",
            "ichat_front_request_seconds",
        )
        counts: list[str] = []
        firsts: list[str] = []
        durations: list[str] = []
        for (model, route), traffic in sorted(self._routes.items()):
            labels = {"model": model, "route": route}
            for status_class, count in enumerate(traffic.by_status_class):
                if count:
                    counts.append(sample(requests, {**labels, "status": f"{status_class}xx"}, count))
            firsts += traffic.first_byte.render(first_byte, labels)
            durations += traffic.duration.render(duration, labels)
        return [
            *family(requests, "counter", "Requests answered through a worker, by class of status.", counts),
            *family(first_byte, "histogram", "From the whole request to the first byte of the answer.", firsts),
            *family(duration, "histogram", "From the whole request to the last byte of the answer.", durations),
        ]
