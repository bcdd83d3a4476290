"""The endpoints that the front answers by itself: probes, the list of models, metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from ichat.front import model_list
from ichat.front.errors import Failure
from ichat.front.metrics_answer import MetricsAnswer
from ichat.front.replies import TEXT, Reply
from ichat.front.routes import find_route

if TYPE_CHECKING:
    from ichat.front.exchange import Exchange
    from ichat.front.reception import Reception
    from ichat.front.request import Request

_MODELS = b"/v1/models"
_SERVER = b"*"  # of OPTIONS alone: what may be asked of the server as a whole
_READ = (b"GET", b"HEAD")
_PING = (b"GET", b"HEAD", b"POST")  # SageMaker's word


def is_open(path: bytes) -> bool:
    """Answered without a key: those who ask have none."""
    return path in _OPEN


def is_known(path: bytes) -> bool:
    return path in _OPEN or path in (_MODELS, _SERVER) or path.startswith(_MODELS + b"/")


def without_slash(path: bytes) -> bytes | None:
    """The path without the slashes at its end, if that one is offered and this one is not."""
    bare = path.rstrip(b"/")
    is_offered = bare != path and (find_route(bare) is not None or bare in _OPEN or bare == _MODELS)
    return bare if is_offered else None


def methods_of(path: bytes) -> tuple[bytes, ...]:
    return _PING if path in (b"/ping", _SERVER) else _READ


def check_method(request: Request) -> Failure | None:
    allowed = methods_of(request.path)
    return None if request.method in allowed else wrong_method(request, allowed)


def wrong_method(request: Request, allowed: tuple[bytes, ...]) -> Failure:
    method, path = request.method.decode("latin-1"), request.path[:128].decode("latin-1")
    methods = b", ".join((*allowed, b"OPTIONS"))
    message = f"{path}: {method} is not offered. Use {methods.decode()}."
    return Failure(405, "method_not_allowed", message, headers=(b"allow: %b\r\n" % methods,))


def answer(request: Request, reception: Reception) -> Reply | Exchange | Failure:
    """The answer to a request whose path is known and whose method was checked."""
    if request.path == b"/metrics":
        return MetricsAnswer(request, reception)
    if (probe := _OPEN.get(request.path)) is not None:
        return probe(reception)
    return model_list.answer(request, reception)


def _welcome(reception: Reception) -> Reply:
    """As true as readiness: load balancers ask here unless they are told otherwise. So does the ollama CLI."""
    reply = _ready(reception)
    words = reply.body.decode().strip()
    text = f"ichat: {words}. OpenAI's API is below /v1 (GET /v1/models lists the models), numbers are at /metrics.\n"
    return replace(reply, body=text.encode())


def _alive(reception: Reception) -> Reply:
    del reception
    return Reply(200, b"alive\n", TEXT)


def _ready(reception: Reception) -> Reply:
    if reception.is_draining or reception.is_withdrawn:
        count = reception.traffic.in_flight
        return _not_ready(reception, f"draining: {count} request{'' if count == 1 else 's'} in flight")
    words = reception.table.words()
    return Reply(200, f"{words}\n".encode(), TEXT) if reception.table.is_ready else _not_ready(reception, words)


def _started(reception: Reception) -> Reply:
    table = reception.table
    return Reply(200, b"started\n", TEXT) if table.was_ready else _not_ready(reception, table.words())


def _not_ready(reception: Reception, words: str) -> Reply:
    retry_after = b"retry-after: %d\r\n" % reception.timeouts.retry_after_s
    return Reply(503, f"{words}\n".encode(), TEXT, (retry_after,))


#: Answered to everybody. Metrics are answered apart, since a worker is asked too.
_OPEN: dict[bytes, Callable[[Reception], Reply]] = {
    b"/": _welcome,
    b"/livez": _alive,
    b"/v1/health/live": _alive,
    b"/startupz": _started,
    b"/readyz": _ready,
    b"/ready": _ready,
    b"/health": _ready,
    b"/health_generate": _ready,  # SGLang's: a token can come out, which is what ready means here
    b"/ping": _ready,
    b"/v1/health/ready": _ready,
    b"/metrics": _alive,
}
