"""How errors read that leave a worker: in OpenAI's shape, and without what belongs to this machine."""

from __future__ import annotations

import json
import re

from ichat.backends.request_checks.facts import RefusalError

_ANTHROPIC = "/v1/messages"
#: Places in source files, as FastAPI's and pydantic's errors and tracebacks have them; and addresses in memory.
_PLACES = re.compile(
    r'\s*File "[^"]*", line \d+(?:, in [\w.<>]+)?(?:\s*(?:GET|POST|PUT) /[\w/{}.-]*)?'
    r"|\[\d\d:\d\d:\d\d\] /\S+?:\d+: "
    r"|\s?\(?(?<![\w.])/(?:[\w.+-]+/)+[\w.+-]+\.(?:py|so|cc|cpp|cu|pyx|pxi)(?::\d+)?\)?"
    r"| at 0x[0-9a-fA-F]+"
)


def refusal_body(refusal: RefusalError, path: str) -> bytes:
    """The body of a 400."""
    error = {"message": str(refusal), "type": "invalid_request_error", "param": refusal.field, "code": refusal.code}
    return json.dumps(({"type": "error"} if path.startswith(_ANTHROPIC) else {}) | {"error": error}).encode()


def without_places(text: str) -> str:
    """The engine's words without file names, line numbers and addresses."""
    return _PLACES.sub("", text)


def cleaned_body(body: bytes) -> bytes:
    """An engine's JSON error without the places in any of its texts; the same object where there are none."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return body
    cleaned = _cleaned(document)
    return body if cleaned == document else json.dumps(cleaned).encode()


def _cleaned(value: object) -> object:
    if isinstance(value, str):
        return without_places(value)
    if isinstance(value, list):
        return [_cleaned(one) for one in value]
    if isinstance(value, dict):
        return {key: _cleaned(one) for key, one in value.items()}
    return value
