"""The load: clients in a closed loop on raw protocols, in a process of their own, counting no more than they must."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import random
import re
import signal
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httptools
import uvloop

_FIRST_TOKEN = re.compile(rb'"content":\s?"[^"]')
_USAGE = re.compile(rb'"completion_tokens":\s?(\d+)')
_TAIL_BYTES = 4096
_PROMPTS = 64
_WARM_S = 0.3  # from the first request until counting begins: connections are open, the engine's batch is full
_PATIENCE_S = 60


@dataclass(frozen=True)
class Address:
    """A TCP port of this machine, or a unix socket."""

    port: int = 0
    socket_path: str = ""


@dataclass(frozen=True)
class Load:
    """So many clients, each with one request at a time, for so long. Every answer has exactly ``tokens`` tokens."""

    model: str
    clients: int
    is_stream: bool
    duration_s: float
    tokens: int = 32
    #: The longest pause of a client between an answer and its next request; 0: none.
    pause_s: float = 0.0

    def requests(self) -> list[bytes]:
        """Different prompts, so that an engine's cache of prefixes answers only for what they share."""
        return [self._request(number) for number in range(_PROMPTS)]

    def _request(self, number: int) -> bytes:
        asked = {
            "model": self.model,
            "messages": [{"role": "user", "content": f"{number}. What is ichat, and which port does it listen on?"}],
            "max_tokens": self.tokens,
            "temperature": 0,
            "ignore_eos": True,
        }
        if self.is_stream:
            asked |= {"stream": True, "stream_options": {"include_usage": True}}
        body = json.dumps(asked).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body


@dataclass(frozen=True)
class Answer:
    """When a request was sent, when its first token came, and when its end."""

    asked_at: float
    first_at: float
    ended_at: float


@dataclass(frozen=True)
class Measured:
    requests_per_s: float
    tokens_per_s: float
    first_token_s: float  # median; of a plain answer, which comes whole, the same as the latency
    latency_s: float  # median
    load_cores: float  # what the load itself used, in cores
    answers: int  # all of them, before and after the window, too


def evaluate(answers: Sequence[Answer], window: tuple[float, float], load: Load, cpu_s: float) -> Measured:
    """What happened within the window.

    A request across an edge of the window counts by the share of its time inside: a whole answer more or less
    would be several per cent of a short round. Rates are those of clients that never pause: what counts is the time
    in which they waited for answers, so that pauses make no server look more like another.
    """
    began, ended = window
    inside = [answer for answer in answers if answer.ended_at > began and answer.asked_at < ended]
    asked_inside = [answer for answer in inside if began <= answer.asked_at]
    if not asked_inside:
        raise RuntimeError(f"no request began within {ended - began:.1f} s: the rounds are too short for this server")
    waited_s = [min(answer.ended_at, ended) - max(answer.asked_at, began) for answer in inside]
    done = sum(waited / (answer.ended_at - answer.asked_at) for waited, answer in zip(waited_s, inside, strict=True))
    per_s = done / sum(waited_s) * load.clients
    return Measured(
        requests_per_s=per_s,
        tokens_per_s=per_s * load.tokens,
        first_token_s=statistics.median(answer.first_at - answer.asked_at for answer in asked_inside),
        latency_s=statistics.median(answer.ended_at - answer.asked_at for answer in asked_inside),
        load_cores=cpu_s / (ended - began),
        answers=len(answers),
    )


class _Client(asyncio.Protocol):
    """One connection, kept alive: asks, notes when what came, pauses, asks again until told to stop."""

    def __init__(self, load: Load, requests: Sequence[bytes], first: int) -> None:
        self._load, self._requests, self._next = load, requests, first
        self._chance = random.Random(first)  # the same pauses in every turn
        self.answers: list[Answer] = []
        self.is_last = False
        self._pause: asyncio.TimerHandle | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._ask()

    def _ask(self) -> None:
        self._pause = None
        self._first_at, self._tail = 0.0, b""
        request = self._requests[self._next % len(self._requests)]
        self._next += 1
        self._asked_at = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        if not self._first_at and _FIRST_TOKEN.search(body):
            self._first_at = time.perf_counter()
        self._tail = (self._tail + body)[-_TAIL_BYTES:]

    def on_message_complete(self) -> None:
        now = time.perf_counter()
        said = _USAGE.findall(self._tail)
        if self._parser.get_status_code() != 200 or not said or int(said[-1]) != self._load.tokens:
            self._fail(
                f"answer {self._parser.get_status_code()}, wanted 200 and {self._load.tokens} tokens: {self._tail!r}"
            )
            return
        self.answers.append(Answer(self._asked_at, (self._load.is_stream and self._first_at) or now, now))
        if self.is_last:
            self.leave()
        elif self._load.pause_s:
            pause_s = self._chance.uniform(0, self._load.pause_s)
            self._pause = asyncio.get_running_loop().call_later(pause_s, self._ask)
        else:
            self._ask()

    def stop(self) -> None:
        """No request after this one; at once if there is none."""
        self.is_last = True
        if self._pause is not None:
            self._pause.cancel()
            self.leave()

    def leave(self) -> None:
        if not self.done.done():
            self.done.set_result(None)
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"the server closed the connection ({exc}); it had said {self._tail!r}")

    def _fail(self, words: str) -> None:
        if not self.done.done():
            self.done.set_exception(RuntimeError(words))
        self._transport.close()


async def _drive(address: Address, load: Load) -> Measured:
    loop = asyncio.get_running_loop()
    requests = load.requests()
    clients: list[_Client] = []
    for number in range(load.clients):
        client = _Client(load, requests, number * _PROMPTS // load.clients)
        if address.socket_path:
            await loop.create_unix_connection(lambda one=client: one, address.socket_path)  # type: ignore[misc]
        else:
            await loop.create_connection(lambda one=client: one, "127.0.0.1", address.port)  # type: ignore[misc]
        clients.append(client)
    await asyncio.sleep(_WARM_S)
    began, cpu_s = time.perf_counter(), time.process_time()
    await asyncio.sleep(load.duration_s)
    ended, cpu_s = time.perf_counter(), time.process_time() - cpu_s
    for client in clients:
        client.stop()
    async with asyncio.timeout(_PATIENCE_S):
        await asyncio.gather(*(client.done for client in clients))
    return evaluate([answer for client in clients for answer in client.answers], (began, ended), load, cpu_s)


def _run(address: Address, load: Load, outcome: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        outcome.send(uvloop.run(_drive(address, load)))
    except Exception as error:  # noqa: BLE001  the parent raises it
        outcome.send(RuntimeError(f"load on {address}: {error!r}"))


def measure(address: Address, load: Load) -> Measured:
    """One round of load; RuntimeError when any answer was not what was asked for."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(address, load, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(_WARM_S + load.duration_s + 2 * _PATIENCE_S):
            raise RuntimeError(f"load on {address}: no result")
        outcome = ours.recv()
    finally:
        process.kill()
        process.join()
    if isinstance(outcome, Exception):
        raise outcome
    return outcome  # type: ignore[no-any-return]
