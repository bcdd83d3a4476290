"""Clients that ask through the router without a pause and without a second try, and remember every answer."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from dataclasses import dataclass
from itertools import count

_TOKENS = 4
_SAID = "".join(f"word{n} " for n in range(_TOKENS))


@dataclass(frozen=True)
class Answer:
    began: float
    status: int  # 0: none
    words: str  # what was wrong, "" where nothing was

    @property
    def is_whole(self) -> bool:
        return self.status == 200 and not self.words


class Load:
    """``with Load(port) as load:`` asks until the end of the block; ``answers`` is complete after it."""

    def __init__(self, port: int, *, clients: int = 4, model: str = "demo") -> None:
        self.answers: list[Answer] = []
        self._port, self._model = port, model
        self._numbers = count()
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._ask_on, name=f"client {n}") for n in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    @property
    def failed(self) -> list[Answer]:
        return [answer for answer in self.answers if not answer.is_whole]

    def _ask_on(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        while not self._is_over.is_set():
            self.answers.append(self._ask(connection, next(self._numbers)))
        connection.close()

    def _ask(self, connection: http.client.HTTPConnection, number: int) -> Answer:
        began, is_stream = time.monotonic(), number % 2 == 1
        message = {"role": "user", "content": f"question {number}"}
        body = {"model": self._model, "messages": [message], "max_tokens": _TOKENS, "stream": is_stream}
        status = 0
        try:
            connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            status, text = answer.status, answer.read().decode()
            said = _streamed(text) if is_stream and status == 200 else _plain(text, status)
            return Answer(began, status, "" if said == _SAID else text[:300])
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            connection.close()
            return Answer(began, status, repr(error))


def _plain(text: str, status: int) -> str:
    return str(json.loads(text)["choices"][0]["message"]["content"]) if status == 200 else text


def _streamed(text: str) -> str:
    """Empty unless it has the end that a stream must have."""
    events = [event.removeprefix("data: ") for event in text.split("\n\n") if event]
    if events[-1:] != ["[DONE]"]:
        return ""
    with contextlib.suppress(KeyError):
        return "".join(json.loads(event)["choices"][0]["delta"]["content"] for event in events[:-1])
    return ""
