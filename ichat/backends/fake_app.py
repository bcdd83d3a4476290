"""The app of the fake engine: OpenAI-shaped answers of as many words as were asked for, as slowly as scripted.

Every answer, and every event of a stream, says who gave it and to whom, so that one that went astray is seen:
the request's `user` comes back as its `id`, `system_fingerprint` is the script's tag.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

from ichat.backends.fake_control import FakeControl

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_DEFAULT_TOKENS = 8


class FakeApp:
    """ASGI. ``wait_for_token`` is awaited before each word; whatever it raises ends the request with an error.

    What the engine was commanded by the admin port shows here: answers that wait, or end with the reason `abort`, and
    `system_fingerprint`, the path of the weights that it was given. ``note`` hears of each completion for a named user:
    "began", and at its end "whole", "left" (its client did not wait) or "failed".
    """

    def __init__(
        self,
        served: tuple[str, str],  # the model's name, and the instance's
        wait_for_token: Callable[[], Awaitable[None]],
        control: Callable[[], FakeControl],
        note: Callable[[str, str], None],
    ) -> None:
        self.tag = ""  # comes with the script
        self.in_flight = 0
        self.running = 0  # of them, those that have begun
        self.aborted = 0  # requests whose client left
        self._model, self._instance = served
        self._wait_for_token, self._control, self._note = wait_for_token, control, note

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while (event := await receive()).get("more_body"):
            body += event["body"]
        body += event.get("body", b"")
        if scope["path"] in ("/v1/chat/completions", "/v1/completions"):
            await self._complete(json.loads(body), receive, send, is_chat="chat" in scope["path"])
        elif scope["path"] == "/metrics":
            await _answer(send, 200, f"fake:in_flight {self.in_flight}\n".encode(), "text/plain")
        elif scope["path"] == "/tokenize":
            await _answer(send, 200, body, "application/json")  # an echo, to compare bytes
        else:
            await _answer(send, 404, b'{"error":{"message":"no such path","type":"not_found","code":404}}')

    async def _complete(self, asked: dict[str, Any], receive: Receive, send: Send, *, is_chat: bool) -> None:
        self.in_flight += 1
        self._tell(asked, "began")
        gone = asyncio.ensure_future(receive())
        answer = asyncio.create_task(self._say(asked, send, is_chat=is_chat))
        end = "left"
        try:
            await asyncio.wait({gone, answer}, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                end = "failed"
                await answer
                end = "whole"
            else:
                self.aborted += 1
        finally:
            self._tell(asked, end)
            gone.cancel()
            answer.cancel()
            self.in_flight -= 1

    def _tell(self, asked: dict[str, Any], what: str) -> None:
        if user := asked.get("user"):
            self._note(str(user), what)

    async def _say(self, asked: dict[str, Any], send: Send, *, is_chat: bool) -> None:
        await self._control().wait_to_begin()
        self.running += 1
        try:
            await self._say_words(asked, send, is_chat=is_chat)
        finally:
            self.running -= 1

    async def _say_words(self, asked: dict[str, Any], send: Send, *, is_chat: bool) -> None:
        count = int(asked.get("max_tokens") or _DEFAULT_TOKENS)
        if not asked.get("stream"):
            words = [word async for word in self._words(count)]
            reason = {"finish_reason": "length" if len(words) == count else "abort"}
            choice = _choice("".join(words), is_chat=is_chat, is_delta=False) | reason
            usage = {"prompt_tokens": 1, "completion_tokens": len(words), "total_tokens": len(words) + 1}
            await _answer(send, 200, json.dumps(self._frame(asked, choice) | {"usage": usage}).encode())
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        said = 0
        async for word in self._words(count):
            said += 1
            await _event(send, self._frame(asked, _choice(word, is_chat=is_chat, is_delta=True)))
        reason = {"finish_reason": "length" if said == count else "abort"}
        last = _choice("", is_chat=is_chat, is_delta=True) | reason
        await _event(send, self._frame(asked, last))
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _words(self, count: int) -> AsyncIterator[str]:
        """So many, or fewer when all answers are aborted meanwhile."""
        control = self._control()
        aborts = control.aborts
        for number in range(count):
            await self._wait_for_token()
            await control.wait_to_go_on()
            if control.aborts != aborts:
                return
            yield f"word{number} "

    def _frame(self, asked: dict[str, Any], choice: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": asked.get("user") or "fake",
            "object": "completion",
            "created": 0,
            "model": self._model,  # the served name, by whatever alias it was asked for
            "asked_model": asked.get("model"),
            "system_fingerprint": self._control().weights or self.tag,
            "instance": self._instance,
            "choices": [choice],
        }


def _choice(text: str, *, is_chat: bool, is_delta: bool) -> dict[str, Any]:
    said = {"delta" if is_delta else "message": {"role": "assistant", "content": text}} if is_chat else {"text": text}
    return {"index": 0, "finish_reason": None, **said}


async def _event(send: Send, frame: dict[str, Any]) -> None:
    body = b"data: " + json.dumps(frame).encode() + b"\n\n"
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def _answer(send: Send, status: int, body: bytes, content_type: str = "application/json") -> None:
    headers = [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
