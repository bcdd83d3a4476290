"""The ASGI part: reads a request's body, has it checked, and gives it to the engine's app, or refuses it.

Answers below 400 pass untouched. An engine's 4xx loses the places in source files that its words name. A 5xx waits for
the end of the app's call: where the error shows that the request was at fault it becomes a 400, so that the worker does
not count as broken.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

from ichat.backends.request_checks.error_answers import cleaned_body, refusal_body, without_places
from ichat.backends.request_checks.facts import RefusalError
from ichat.backends.request_checks.table import RequestTable

log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

_FORMS = (b"multipart/form-data", b"application/x-www-form-urlencoded")
#: Errors are shorter; whatever is longer is no error of ours to read.
_MOST_ERROR_BYTES = 256 * 1024
#: What Python raises when a value is not what the code takes it for.
_OF_VALUES = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError)


class Mistakes(Protocol):
    """What an engine tells of its own errors."""

    #: Functions of the engine that wait for its processes: what is raised there came from them.
    waiting: frozenset[str]

    def explain(self, document: dict[str, Any]) -> RefusalError | None:
        """Why the engine answers this request with 500 and no word, if the request is the reason."""


class RequestChecks:
    """See the module. An ASGI app around another."""

    def __init__(self, app: App, table: RequestTable, mistakes: Mistakes) -> None:
        self._app, self._table, self._mistakes = app, table, mistakes

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("POST", "PUT") or _is_form(scope):
            await self._app(scope, receive, send)
            return
        body = await _whole_body(receive)
        if body is None:
            return  # the client has left
        try:
            document = self._table.read(scope["path"], body) if body else {}
        except RefusalError as refusal:
            await _refuse(scope["path"], refusal, send)
            return
        await self._relay(scope, _again(body, receive), send, document)

    async def _relay(
        self, scope: MutableMapping[str, Any], receive: Receive, send: Send, document: dict[str, Any]
    ) -> None:
        answer = _Answer(send)
        try:
            await self._app(scope, receive, answer.send)
        except _OF_VALUES as error:
            if not (answer.is_unsent or answer.is_open_stream) or not self._is_users(error):
                await answer.release()
                raise
            words = without_places(f"{type(error).__name__}: {error}")
            refused = RefusalError(None, f"The engine cannot take this request: {words}")
            if answer.is_unsent:
                await _refuse(scope["path"], refused, send)
            else:
                event = b"event: error\ndata: %b\n\ndata: [DONE]\n\n" % refusal_body(refused, scope["path"])
                await answer.send({"type": "http.response.body", "body": event, "more_body": False})
            return
        except BaseException:
            await answer.release()
            raise
        refusal = self._mistakes.explain(document) if answer.status == 500 and answer.is_held else None
        if refusal is not None:
            await _refuse(scope["path"], refusal, send)
        else:
            await answer.release()

    def _is_users(self, error: Exception) -> bool:
        """A plain ValueError is how an engine's processes refuse a request, as SGLang's do with a grammar."""
        if type(error) is ValueError:
            return True
        frames = traceback.walk_tb(error.__traceback__)
        return self._mistakes.waiting.isdisjoint(frame.f_code.co_name for frame, _ in frames)


class _Answer:
    """Passes an answer on; errors it holds until they are whole (4xx) or released (5xx)."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._head: Message | None = None
        self._early: Message | None = None  # the head of an answer whose body has not begun
        self._body = bytearray()
        self.status = 0
        self.is_open_stream = False  # of events, and not at its end

    @property
    def is_held(self) -> bool:
        return self._head is not None

    @property
    def is_unsent(self) -> bool:
        """The client has seen nothing yet."""
        return self._head is not None or self._early is not None or not self.status

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.is_open_stream = any(value.startswith(b"text/event-stream") for _, value in message["headers"])
            self._head, self._early = (message, None) if self.status >= 400 else (None, message)
            return
        if self._head is not None:
            await self._hold(message)
            return
        if self._early is not None:
            early, self._early = self._early, None
            await self._send(early)
        self.is_open_stream = self.is_open_stream and message.get("more_body", False)
        await self._send(message)

    async def _hold(self, message: Message) -> None:
        self._body += message.get("body", b"")
        is_whole = not message.get("more_body", False)
        if len(self._body) > _MOST_ERROR_BYTES or (is_whole and self.status < 500):
            await self.release(is_whole=is_whole)

    async def release(self, *, is_whole: bool = True) -> None:
        """Send what is held."""
        if self._early is not None:
            early, self._early = self._early, None
            await self._send(early)
        if self._head is None:
            return
        head, self._head = self._head, None
        body = cleaned_body(bytes(self._body)) if is_whole and self.status < 500 else bytes(self._body)
        if body != self._body:
            kept = [(name, value) for name, value in head["headers"] if name.lower() != b"content-length"]
            head["headers"] = [*kept, (b"content-length", str(len(body)).encode())]
        await self._send(head)
        await self._send({"type": "http.response.body", "body": body, "more_body": not is_whole})


def _is_form(scope: MutableMapping[str, Any]) -> bool:
    kind = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    return bool(kind.lower().startswith(_FORMS))


async def _whole_body(receive: Receive) -> bytes | None:
    """None: the client left before its end."""
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        return bytes(message.get("body", b""))
    parts = bytearray()
    while message["type"] == "http.request":
        parts += message.get("body", b"")
        if not message.get("more_body"):
            return bytes(parts)
        message = await receive()
    return None


def _again(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that gives the body first, then what the server tells."""
    is_given = False

    async def give() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return give


async def _refuse(path: str, refusal: RefusalError, send: Send) -> None:
    log.debug("%s: refused: %s", path, refusal)
    body = refusal_body(refusal, path)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 400, "headers": headers})
    await send({"type": "http.response.body", "body": body})
