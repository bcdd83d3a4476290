"""What may be asked of an engine: the allow-list of methods and paths.

Everything else of an engine's HTTP server changes or reveals the engine itself (sleep, weights, profiles, adapters,
caches, aborts, remote calls) and stays out of reach from the public port, whatever the engine adds next.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from ichat.front.errors import Dialect

#: Where a request names its model.
BodyKind = Literal["json", "form", "none"]


@dataclass(frozen=True, slots=True)
class Route:
    """``name`` is the path, or its pattern where a part of it varies: a label in the metrics.

    ``is_of_one_instance``: of several instances of a model only one knows what is asked for. ``generates``: there is
    an answer that can be constrained.
    """

    name: str
    methods: tuple[bytes, ...]
    body: BodyKind = "json"
    dialect: Dialect = "openai"
    is_of_one_instance: bool = False
    generates: bool = True


_POST = (b"POST",)
_POST_OR_PUT = (b"POST", b"PUT")
_GET = (b"GET",)

_JSON_PATHS = (
    # OpenAI's, in both engines unless noted.
    "/v1/chat/completions",
    "/v1/completions",
    "/tokenize",
    "/invocations",
    "/v1/systemone",
    # vLLM
    "/v1/chat/completions/batch",
    "/v1/chat/completions/render",
    "/v1/chat/completions/derender",
    "/v1/completions/render",
    "/v1/completions/derender",
    "/v1/responses/render",
    "/inference/v1/generate",
    "/cohere/v2/chat",
    "/cohere/v2/chat/render",
    # SGLang
    "/v1/tokenize",
    "/v1/decisions",
    "/parse_function_call",
    "/separate_reasoning",
    "/vertex_generate",
    "/api/show",
)
_JSON_PATHS_OF_NUMBERS = (
    "/v1/embeddings",
    "/detokenize",
    "/v1/score",
    # vLLM
    "/generative_scoring",
    "/pooling",
    "/score",
    "/rerank",
    "/v2/rerank",
    "/v2/embed",
    # SGLang
    "/v1/detokenize",
    "/v1/classify",
)
_JSON_PATHS_WITH_PUT = ("/generate", "/encode", "/classify", "/v1/rerank")
_MESSAGES_PATHS = ("/v1/messages", "/v1/messages/count_tokens", "/v1/messages/render")
_FORM_PATHS = ("/v1/audio/transcriptions", "/v1/audio/translations")
_GET_PATHS = (
    "/version",
    "/load",
    "/v1/loads",
    "/tokenizer_info",
    "/get_server_info",
    "/server_info",
    "/get_model_info",
    "/model_info",
    "/api/tags",
)

_ROUTES = {
    route.name.encode(): route
    for route in (
        *(Route(path, _POST) for path in _JSON_PATHS),
        Route("/v1/responses", _POST, is_of_one_instance=True),  # that gave the `previous_response_id`, if it has one
        *(Route(path, _POST, generates=False) for path in _JSON_PATHS_OF_NUMBERS),
        *(Route(path, _POST_OR_PUT, generates=path == "/generate") for path in _JSON_PATHS_WITH_PUT),
        *(Route(path, _POST, dialect="anthropic") for path in _MESSAGES_PATHS),
        *(Route(path, _POST, body="form") for path in _FORM_PATHS),
        *(Route(path, _GET, body="none") for path in _GET_PATHS),
    )
}

_RESPONSE_ID = rb"[A-Za-z0-9_-]{1,128}"
_RESPONSE = Route("/v1/responses/{id}", _GET, body="none", is_of_one_instance=True)
_CANCEL = Route("/v1/responses/{id}/cancel", _POST, body="none", is_of_one_instance=True)
_PATTERNS = (
    (re.compile(rb"/v1/responses/%b" % _RESPONSE_ID), _RESPONSE),
    (re.compile(rb"/v1/responses/%b/cancel" % _RESPONSE_ID), _CANCEL),
)


def find_route(path: bytes) -> Route | None:
    """The route of a path exactly as it was sent: nothing is decoded, folded or joined."""
    if (route := _ROUTES.get(path)) is not None:
        return route
    return next((route for pattern, route in _PATTERNS if pattern.fullmatch(path)), None)


def known_routes() -> list[Route]:
    """All of the allow-list; `{id}` stands for what varies in a path."""
    return [*_ROUTES.values(), *(route for _, route in _PATTERNS)]
