"""What the fake engine says of itself in every answer, so that an answer that went astray is seen."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import pytest

from ichat.backends.fake_app import FakeApp
from ichat.backends.fake_backend import Script
from ichat.backends.fake_control import FakeControl
from ichat.errors import EngineError

Message = MutableMapping[str, Any]


class Exchange:
    """One request to the app: ``sent`` is what it answers, ``leave`` is its client's end."""

    def __init__(self, app: FakeApp, path: str, **asked: Any) -> None:
        self.sent: list[Message] = []
        self.leave = asyncio.Event()
        self._body: bytes | None = json.dumps(asked).encode()
        self.task = asyncio.create_task(app({"type": "http", "path": path}, self._receive, self._send))

    async def _receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body}
        await self.leave.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        self.sent.append(message)

    async def frames(self) -> list[dict[str, Any]]:
        """The answer's JSON: one for a plain answer, one an event of a stream."""
        await self.task
        text = b"".join(message.get("body", b"") for message in self.sent).decode()
        events = [event.removeprefix("data: ") for event in text.split("\n\n") if event]
        return [json.loads(event) for event in events if event != "[DONE]"]


class Noted(list[tuple[str, str]]):
    def __call__(self, user: str, what: str) -> None:
        self.append((user, what))


def made(wait_for_token: Callable[[], Awaitable[None]], noted: Noted) -> FakeApp:
    control = FakeControl("qwen", Script(), lambda: 0)
    return FakeApp(("qwen", "qwen/0"), wait_for_token, lambda: control, noted)


async def at_once() -> None:
    pass


async def never() -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize("stream", [True, False])
async def test_every_part_of_an_answer_says_who_gave_it_and_to_whom(path: str, stream: bool) -> None:
    app = made(at_once, Noted())
    app.tag = "7"
    frames = await Exchange(app, path, model="an-alias", user="r-1", max_tokens=2, stream=stream).frames()
    assert len(frames) == (3 if stream else 1)
    keys = ("model", "asked_model", "id", "system_fingerprint", "instance")
    assert {tuple(frame[key] for key in keys) for frame in frames} == {("qwen", "an-alias", "r-1", "7", "qwen/0")}


async def fail() -> None:
    raise EngineError("the engine has died")


async def test_each_execution_for_a_user_is_noted_with_its_end() -> None:
    noted = Noted()
    app = made(at_once, noted)
    await Exchange(app, "/v1/completions", user="r-1").frames()
    await Exchange(app, "/v1/completions").frames()
    assert noted == [("r-1", "began"), ("r-1", "whole")]


async def test_an_engine_that_fails_is_noted() -> None:
    noted = Noted()
    with pytest.raises(EngineError):
        await Exchange(made(fail, noted), "/v1/completions", user="r-1").task
    assert noted == [("r-1", "began"), ("r-1", "failed")]


async def test_a_client_that_leaves_is_noted() -> None:
    noted = Noted()
    exchange = Exchange(made(never, noted), "/v1/completions", user="r-1")
    exchange.leave.set()
    await exchange.task
    assert noted == [("r-1", "began"), ("r-1", "left")]
