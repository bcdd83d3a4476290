"""What an answer says, read from its bytes: of a plain one, of a stream of events, of a refusal."""

from __future__ import annotations

from typing import Any

import orjson

from tests.history.records import Request

_DONE = b"[DONE]"


def read_answer(request: Request, body: bytes) -> None:
    """Fill in what the body says; what does not belong there ends up in ``strange``."""
    if not 200 <= request.status < 300:
        _read_error(request, body)
    elif request.kind == "plain" and request.outcome != "ok":
        return  # it has no part that could be read
    elif request.kind == "plain":
        frame = _json(request, body)
        if frame is not None:
            _read_frame(request, frame)
            request.tokens = _usage(frame) or request.tokens
    else:
        _read_events(request, body)


def _read_events(request: Request, body: bytes) -> None:
    *events, rest = body.split(b"\n\n")
    if rest and request.outcome == "ok":
        request.strange = f"an event without its end: {rest[:80]!r}"
    for event in events:
        if request.done:
            request.strange = f"an event after [DONE]: {event[:80]!r}"
        data = event.removeprefix(b"data: ")
        if data == _DONE:
            request.done = True
        elif data is event or (frame := _json(request, data)) is None:
            request.strange = request.strange or f"not an event with data: {event[:80]!r}"
        else:
            _read_frame(request, frame)
            request.tokens = _usage(frame) or request.tokens


def _read_frame(request: Request, frame: dict[str, Any]) -> None:
    if "error" in frame:
        request.error_event = True
        request.code = _code(frame)
        return
    for choice in frame.get("choices", ()):
        if request.finish_reason:
            request.strange = "more after the finish reason"
        said = choice.get("text") or (choice.get("delta") or choice.get("message") or {}).get("content") or ""
        if said:
            request.text += said
            request.tokens += 1
        request.finish_reason = choice.get("finish_reason") or request.finish_reason
    for field, key in (
        ("answered_model", "model"),
        ("answered_name", "asked_model"),
        ("answered_id", "id"),
        ("tag", "system_fingerprint"),
        ("instance", "instance"),
    ):
        _say_once(request, field, frame.get(key))


def _say_once(request: Request, field: str, said: Any) -> None:
    """All parts of an answer that say it say the same."""
    if said is None:
        return
    known, text = getattr(request, field), str(said)
    if not known:
        setattr(request, field, text)
    elif text != known:
        request.strange = f'its {field} is "{known}" and then "{text}"'


def _read_error(request: Request, body: bytes) -> None:
    frame = _json(request, body)
    if frame is not None:
        request.code = _code(frame)
        if not request.code:
            request.strange = f"a refusal without a code: {body[:80]!r}"


def _code(frame: dict[str, Any]) -> str:
    error = frame.get("error")
    return str(error.get("code") or "") if isinstance(error, dict) else ""


def _usage(frame: dict[str, Any]) -> int:
    """Tokens as the engine counts them, where it tells."""
    usage = frame.get("usage")
    return int(usage.get("completion_tokens") or 0) if isinstance(usage, dict) else 0


def _json(request: Request, body: bytes) -> dict[str, Any] | None:
    try:
        frame = orjson.loads(body)
    except orjson.JSONDecodeError:
        frame = None
    if isinstance(frame, dict):
        return frame
    request.strange = f"not a JSON object: {body[:80]!r}"
    return None
