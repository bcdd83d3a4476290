"""What a client is told when a request cannot be served: one shape for every refusal, whole or in mid-stream."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import orjson

from ichat.front.replies import JSON, Reply

#: Whose words an error speaks. The SDK of the Messages API overlooks an error in OpenAI's shape.
Dialect = Literal["openai", "anthropic"]

_TYPES = {401: "authentication_error", 404: "not_found_error", 413: "request_too_large", 429: "rate_limit_error"}


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request is refused or ends early.

    ``code`` is one of the words in docs/front.md and never changes its meaning. ``param`` is the field of the request
    that is to blame, where it is one. ``closes``: the connection cannot go on after it, because what follows on it is
    unknown or unwanted.
    """

    status: int
    code: str
    message: str
    retry_after_s: int | None = None
    closes: bool = False
    headers: tuple[bytes, ...] = ()
    param: str | None = None

    def reply(self, dialect: Dialect = "openai", *more_headers: bytes) -> Reply:
        headers = self.headers + more_headers
        if self.retry_after_s is not None:
            headers += (b"retry-after: %d\r\n" % self.retry_after_s,)
        return Reply(self.status, self._json(dialect), JSON, headers, closes=self.closes)

    def events(self, dialect: Dialect = "openai") -> bytes:
        """The last events of a stream that has begun. Nothing of a partial event may precede them."""
        if dialect == "anthropic":
            return b"event: error\ndata: %b\n\n" % self._json(dialect)
        return b"data: %b\n\ndata: [DONE]\n\n" % self._json(dialect)

    def _json(self, dialect: Dialect) -> bytes:
        if dialect == "anthropic":
            kind = _TYPES.get(self.status, "api_error" if self.status >= 500 else "invalid_request_error")
            error = {"type": kind, "message": self.message, "code": self.code}
            return orjson.dumps({"type": "error", "error": error})
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return orjson.dumps({"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}})


def bad_request(code: str, message: str, *, status: int = 400) -> Failure:
    """The bytes on the connection cannot be trusted any further."""
    return Failure(status, code, message, closes=True)


def invalid_body(message: str, param: str | None = None) -> Failure:
    """The request was understood, its body was not; the next one on the connection may be better."""
    return Failure(400, "invalid_body", message, param=param)


#: A worker has read the request, which may be the cause: nothing here advises to send it again and again.
WORKER_LOST = Failure(
    502,
    "worker_lost",
    "The answer was broken off before it was complete: the worker ended, or its engine ended the answer. The log of"
    " ichat says which. The request may be the cause of it: do not repeat it more than once.",
)
WORKER_UNREACHED = Failure(
    502,
    "worker_lost",
    "The worker ended before it had read this request, and no other one could take it. The request had no part in that:"
    " send it again.",
)
INTERNAL_ERROR = Failure(
    500, "internal_error", "ichat could not read this request, which is a bug of ichat. Its log says more."
)
ABORTED = Failure(
    503, "aborted", "The engine was told to abort this request before it had begun. Send it again.", retry_after_s=1
)
INVALID_API_KEY = Failure(
    401,
    "invalid_api_key",
    "API key: missing or wrong. Send the header 'Authorization: Bearer <key>'.",
    headers=(b"www-authenticate: Bearer\r\n",),
)
INVALID_API_KEY_OF_EITHER = replace(
    INVALID_API_KEY,
    message="API key: missing or wrong. Send the header 'Authorization: Bearer <key>', or 'x-api-key: <key>'.",
)
REQUEST_TIMEOUT = Failure(
    408, "request_timeout", "The request did not arrive in time. Send it again, faster.", closes=True
)
TOO_MANY_CONNECTIONS = Failure(
    503,
    "too_many_connections",
    "This server has as many connections as it may have (server.limits.connections). Try again later.",
    retry_after_s=1,
    closes=True,
)


def body_too_large(limit: int, setting: str, *, closes: bool) -> Failure:
    return Failure(413, "body_too_large", f"body: longer than {limit} bytes ({setting}). Send less.", closes=closes)


def overloaded(limit: int, retry_after_s: int) -> Failure:
    words = f"all request bodies that are held here would be longer than {limit} bytes (server.limits.bodies_bytes)"
    return Failure(503, "overloaded", f"body: {words}. Try again in {retry_after_s} s.", retry_after_s, closes=True)


def queue_full(model: str, words: str, retry_after_s: int) -> Failure:
    return Failure(503, "queue_full", f"model {model}: {words}. Try again in {retry_after_s} s.", retry_after_s)


def model_missing(served: list[str]) -> Failure:
    """Neither the body names a model, nor the request itself."""
    message = f"model: missing, and several are served. Name one of {', '.join(served)}"
    return invalid_body(f"{message}: in the body, as ?model=… or in the header x-ichat-model.", "model")


def shutting_down(retry_after_s: int) -> Failure:
    message = "This server is shutting down. Send the request again: another server, or this one restarted, takes it."
    return Failure(503, "shutting_down", message, retry_after_s, closes=True)


def model_not_found(name: str, served: list[str]) -> Failure:
    shown = name if len(name) <= 128 else name[:127] + "…"
    known = f"Served here: {', '.join(served)}." if served else "None is served here."
    return Failure(404, "model_not_found", f"model '{shown}': there is no such model. {known}", param="model")


def not_offered(path: bytes, instead: str) -> Failure:
    return Failure(404, "not_found", f"{shown_path(path)}: {instead}")


def moved(target: bytes, path: bytes, bare: bytes) -> Failure:
    """The path is known without the slashes at its end. The engines' servers redirect, too, and clients follow.

    The way is told from where the client is, because a proxy may have cut off the beginning of the path.
    """
    words = f"{shown_path(path)}: this path ends without a slash. Use {shown_path(bare)}."
    levels = len(path) - len(bare)
    location = b"../" * levels + bare.rpartition(b"/")[2] + target[len(path) :]
    return Failure(307, "redirected", words, headers=(b"location: %b\r\n" % location,))


def shown_path(path: bytes) -> str:
    return path[:128].decode("latin-1")


def answer_timeout(model: str, limit_s: float) -> Failure:
    """By the operator's limit: whether the worker would still have answered nobody knows."""
    words = f"model {model}: no byte of an answer came within {limit_s:g} s (timeouts.first_byte_s)."
    return Failure(504, "answer_timeout", f"{words} Ask for less, or have the limit raised.")


def engine_busy(model: str, headers: tuple[bytes, ...], retry_after_s: int) -> Failure:
    """Its own limit of requests is reached. It may have said when to try again."""
    said = any(line[:12].lower() == b"retry-after:" for line in headers)
    words = f"model {model}: the engine takes no more requests now. Try again later."
    return Failure(503, "queue_full", words, None if said else retry_after_s, headers=headers)


def engine_error(status: int, headers: tuple[bytes, ...]) -> Failure:
    """Instead of the engine's own words, which may tell of paths, addresses or other requests."""
    message = f"The engine could not serve this request (status {status}). Its log says why."
    return Failure(status, "engine_error", message, headers=headers)
