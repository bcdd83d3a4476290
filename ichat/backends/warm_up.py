"""The first real request: through the socket, the engine's app and the engine, before anybody else's."""

from __future__ import annotations

import asyncio
import http.client
import json
import math
import socket
from collections.abc import Iterator
from typing import Any

from ichat.errors import EngineError


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        # No limit of its own: the launcher ends a start that takes too long, and says in which phase it was.
        super().__init__("localhost", timeout=None)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self._path)


async def request_once(socket_path: str, path: str, body: dict[str, Any], api_key: str | None) -> dict[str, Any]:
    """POST ``body`` to the app on the socket and return its JSON; EngineError unless it answers 200.

    The loop stays free: it is the loop that must serve this request.
    """
    return await asyncio.to_thread(_request, socket_path, path, body, api_key)


def check_numbers(path: str, numbers: Any) -> None:
    """EngineError unless ``numbers``, of an answer from ``path``, are numbers, and there is one.

    An engine with NaN in its weights answers 200, with a token that means nothing.
    """
    found = list(_flatten(numbers))
    if not found or not all(isinstance(each, int | float) and math.isfinite(each) for each in found):
        raise EngineError(
            f"the warm-up request to {path} brought NaN or no numbers at all, {str(found[:4])[:80]}:"
            " the weights are broken, or overflow in this dtype",
            code="E-ENG-WARM-UP",
        )


def _flatten(numbers: Any) -> Iterator[Any]:
    if isinstance(numbers, list):
        for each in numbers:
            yield from _flatten(each)
    else:
        yield numbers


def _request(socket_path: str, path: str, body: dict[str, Any], api_key: str | None) -> dict[str, Any]:
    headers = {"Content-Type": "application/json", "Connection": "close"}
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    connection = _UnixConnection(socket_path)
    try:
        connection.request("POST", path, json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        raise EngineError(f"the warm-up request to {path} got no answer: {error!r}", code="E-ENG-WARM-UP") from error
    finally:
        connection.close()
    if answer.status != 200:
        raise EngineError(f"the warm-up request to {path} got {answer.status}: {text[:160]}", code="E-ENG-WARM-UP")
    parsed: dict[str, Any] = json.loads(text)
    return parsed
