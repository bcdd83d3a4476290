"""The front's own numbers in Prometheus' text form. docs/front.md explains each of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ichat.observe.metrics import Family, Labels, label_pairs

if TYPE_CHECKING:
    from ichat.front.traffic import Flow, Traffic

#: Prometheus' own name for the scraped address is `instance`, so ours cannot be.
INSTANCE = "ichat_instance"

_CONNECTIONS = Family("ichat_front_connections", "gauge", "Client connections open now.")
_IN_FLIGHT = Family("ichat_front_in_flight", "gauge", "Requests in flight now, those that wait included.")
_QUEUED = Family("ichat_front_queued", "gauge", "Requests that wait for a worker now.")
_REQUESTS = Family("ichat_front_requests_total", "counter", "Requests for a model, by class of status.")
_BUSY = Family("ichat_front_busy_seconds_total", "counter", "Seconds that requests took, added up.")
_PROMPT = Family("ichat_front_prompt_tokens_total", "counter", "Tokens of prompts, as the answers' usage says.")
_COMPLETION = Family(
    "ichat_front_completion_tokens_total", "counter", "Tokens of completions, as the answers' usage says."
)
_RECEIVED = Family("ichat_front_received_bytes_total", "counter", "Bytes of the bodies of requests.")
_SENT = Family("ichat_front_sent_bytes_total", "counter", "Bytes of the bodies of workers' answers.")
_FIRST_BYTE = Family(
    "ichat_front_first_byte_seconds", "histogram", "From the whole request to the first byte of the answer."
)
_DURATION = Family("ichat_front_request_seconds", "histogram", "From the whole request to the last byte of the answer.")
_WAITED = Family("ichat_front_queue_seconds", "histogram", "How long requests waited that had to wait for a worker.")
_REFUSED = Family("ichat_front_refused_total", "counter", "Requests that ended with an error of the front, by code.")
_CUT = Family("ichat_front_cut_total", "counter", "Answers that had begun and were ended early, by code.")
_RETRIES = Family("ichat_front_retries_total", "counter", "Requests sent to a second worker.")
_LOST = Family("ichat_front_worker_lost_total", "counter", "Requests whose worker ended before the answer.")
_LEFT = Family("ichat_front_client_left_total", "counter", "Requests whose client left before the answer.")
_FAULTS = Family("ichat_front_worker_faults_total", "counter", "Failures of a worker to take or answer a request.")
_AFFINE = Family(
    "ichat_front_affinity_total", "counter", "Requests whose prefix an instance knew, by whether it took them."
)
#: Rendered beside the rest by who merges the answer.
SILENT_WORKERS = Family(
    "ichat_front_silent_workers", "gauge", "Ready workers whose metrics are missing in this answer."
)
SILENT_FRONTS = Family(
    "ichat_front_silent_processes", "gauge", "Front processes whose metrics are missing in this answer."
)

#: (model, instance) → requests in flight there.
Loads = Mapping[tuple[str, str], int]


def render(traffic: Traffic, loads: Loads, process: int) -> str:
    """All families that have a sample, until now. ``process`` numbers the front process: each counts for itself."""
    traffic.add_up()
    own = {"process": str(process)}
    lines: list[str] = []
    lines += _CONNECTIONS.render([(own, traffic.connections)])
    lines += _IN_FLIGHT.render(_in_flight(traffic, loads, own))
    lines += _render_flows(traffic, own)
    lines += _render_timings(traffic, own)
    lines += _render_models(traffic, own)
    refused = sorted(traffic.refused.items())
    lines += _REFUSED.render(({**own, "model": m, "key": k, "code": c}, count) for (m, k, c), count in refused)
    cut = sorted(traffic.cut.items())
    lines += _CUT.render(({**own, "model": m, INSTANCE: i, "code": c}, count) for (m, i, c), count in cut)
    faults = sorted(traffic.faults.items())
    lines += _FAULTS.render(({**own, "model": model_of(i), INSTANCE: i}, count) for i, count in faults)
    return "\n".join(lines) + "\n"


def model_of(instance: str) -> str:
    return instance.rpartition("/")[0]


def labels_of(instance: str) -> bytes:
    """What every sample of a worker's own metrics gets."""
    return label_pairs({"ichat_model": model_of(instance), INSTANCE: instance}).encode()


def _in_flight(traffic: Traffic, loads: Loads, own: Labels) -> Iterator[tuple[Labels, float]]:
    """At workers, waiting for one (no instance), and not yet known which model they are for (no model)."""
    waiting = {(name, ""): model.queued for name, model in traffic.models.items() if model.queued}
    known = {**loads, **waiting}
    for (model, instance), count in sorted(known.items()):
        yield {**own, "model": model, INSTANCE: instance}, count
    yield {**own, "model": "", INSTANCE: ""}, max(0, traffic.in_flight - sum(known.values()))


def _render_flows(traffic: Traffic, own: Labels) -> list[str]:
    flows: list[tuple[Labels, Flow]] = [
        ({**own, "model": model, "route": route, INSTANCE: instance, "key": key}, flow)
        for (model, route, instance, key), flow in sorted(traffic.flows.items())
    ]
    return [
        *_REQUESTS.render(
            ({**labels, "status": f"{status_class}xx"}, count)
            for labels, flow in flows
            for status_class, count in enumerate(flow.by_status_class)
            if count
        ),
        *_BUSY.render((labels, flow.seconds) for labels, flow in flows),
        *_PROMPT.render((labels, flow.prompt_tokens) for labels, flow in flows if flow.prompt_tokens),
        *_COMPLETION.render((labels, flow.completion_tokens) for labels, flow in flows if flow.completion_tokens),
        *_RECEIVED.render((labels, flow.received_bytes) for labels, flow in flows),
        *_SENT.render((labels, flow.sent_bytes) for labels, flow in flows),
    ]


def _render_timings(traffic: Traffic, own: Labels) -> list[str]:
    timings = [
        ({**own, "model": model, "route": route, INSTANCE: instance}, timing)
        for (model, route, instance), timing in sorted(traffic.timings.items())
    ]
    return [
        *_FIRST_BYTE.render_histograms((labels, timing.first_byte) for labels, timing in timings),
        *_DURATION.render_histograms((labels, timing.duration) for labels, timing in timings),
    ]


def _render_models(traffic: Traffic, own: Labels) -> list[str]:
    models = [({**own, "model": name}, model) for name, model in sorted(traffic.models.items())]
    return [
        *_QUEUED.render((labels, model.queued) for labels, model in models),
        *_WAITED.render_histograms((labels, model.waited) for labels, model in models if model.waited.has_any),
        *_RETRIES.render((labels, model.retries) for labels, model in models),
        *_LOST.render((labels, model.lost) for labels, model in models),
        *_LEFT.render((labels, model.left) for labels, model in models),
        *_AFFINE.render(
            ({**labels, "outcome": outcome}, count)
            for labels, model in models
            for outcome, count in (("hit", model.affinity_hits), ("miss", model.affinity_misses))
            if count
        ),
    ]
