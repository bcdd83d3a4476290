"""The load on a gateway: clients in a closed loop on raw protocols, and one turn of it measured.

Written for this and as light as wrk (within a few per cent of its rate), because wrk counts neither events nor what
is missing from an answer, and cannot read a gateway's CPU at the very moment at which it begins to count.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import multiprocessing
import signal
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import uvloop

from benchmarks.front.cores import Cores
from benchmarks.front.scripted_worker import ANSWERS, MODEL
from benchmarks.process_tree import cpu_s_of

PATH = "/v1/chat/completions"
_CONVERSATIONS = 64
_WARM_S = 0.25  # until counting begins: connections are open, and so are those to the worker
_BEGIN_S = 5.0
_PATIENCE_S = 20.0
_END = b"0\r\n\r\n"
_EVENT = b"data: {"
_KEPT_BYTES = len(_EVENT) - 1  # of what was read before: an event's start, or the end, may come in two pieces
#: Who divides a flood into chunks anew may do so within an event's start, which then is not counted: one of 10 000.
_WHOLE = 0.99


@dataclass(frozen=True)
class Load:
    """So many clients, each asking again when it has its answer.

    ``script`` tells the worker what to answer; a stream has ``events`` and is counted by them, other answers whole.
    """

    script: str
    clients: int
    events: int = 0
    prompt_bytes: int = 200

    def requests(self) -> list[bytes]:
        """As an OpenAI client sends them; no two conversations are the same, nor of one length."""
        return [self._request(number) for number in range(_CONVERSATIONS)]

    def _request(self, number: int) -> bytes:
        words = f"What is conversation {number} about, and what is a front? "
        length = self.prompt_bytes + number
        prompt = (words * (length // len(words) + 1))[:length]
        return self.with_messages([{"role": "user", "content": f"bench-{self.script}! {prompt}"}])

    def with_messages(self, messages: Sequence[dict[str, str]]) -> bytes:
        asked: dict[str, Any] = {"model": MODEL, "messages": messages, "max_tokens": 16}
        if self.events:
            asked["stream"] = True
        body = json.dumps(asked).encode()
        head = (
            f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nAccept: application/json\r\n"
            f"Content-Type: application/json\r\nUser-Agent: load/1\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    @property
    def answer_bytes(self) -> int:
        return 0 if self.events else len(ANSWERS[self.script.encode()])


@dataclass(frozen=True)
class Turn:
    """``per_s`` counts answers or events; ``cpu_us`` is the gateway's for each of them."""

    per_s: float
    cpu_us: float
    p50_us: float  # of whole answers; 0 of streams
    gateway_cores: float
    load_cores: float  # of load and worker together


class UnexpectedAnswerError(RuntimeError):
    """A gateway answered what nobody asked for, or not at all."""


class Client(asyncio.Protocol):
    """One kept connection. ``failure`` is set when an answer is wrong; then it asks no more."""

    def __init__(self, load: Load, requests: Sequence[bytes], first: int) -> None:
        self._load = load
        self._requests = itertools.cycle([*requests[first:], *requests[:first]])
        self._answer_bytes = load.answer_bytes
        self.count = 0
        self.latencies: list[float] = []
        self.failure = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self._ask()

    def _ask(self) -> None:
        self._kept, self._left, self._events = b"", -1, 0
        self._asked_at = time.perf_counter()
        self.transport.write(next(self._requests))

    def data_received(self, data: bytes) -> None:
        if self._left < 0 and not self._begin(data):
            return
        if self._load.events:
            self._count_events(data)
            return
        self._left -= len(data)
        if self._left == 0:
            self.latencies.append(time.perf_counter() - self._asked_at)
            self.count += 1
            self._ask()
        elif self._left < 0:
            self._fail(f"{-self._left} bytes more than the worker sent")

    def _begin(self, data: bytes) -> bool:
        """False: there is no head, or not the right one."""
        if not data.startswith(b"HTTP/1.1 200"):
            self._fail(f"unexpected answer: {data[:300]!r}")
            return False
        self._left = 0 if self._load.events else data.index(b"\r\n\r\n") + 4 + self._answer_bytes
        return True

    def _count_events(self, data: bytes) -> None:
        seen = self._kept + data
        found = seen.count(_EVENT)
        self._events += found
        self.count += found
        self._kept = seen[-_KEPT_BYTES:]
        if not seen.endswith(_END):
            return
        if self._events >= _WHOLE * self._load.events:
            self._ask()
        else:
            self._fail(f"a stream of {self._events} events where the worker sent {self._load.events}")

    def connection_lost(self, exc: Exception | None) -> None:
        self.failure = self.failure or f"the connection was closed ({exc})"

    def _fail(self, words: str) -> None:
        self.failure = self.failure or words
        self.transport.abort()


@dataclass(frozen=True)
class _Edge:
    """Everything that is counted, at one moment."""

    at: float
    count: int
    gateway_cpu_s: float
    load_cpu_s: float


async def _drive(port: int, load: Load, watched: tuple[Sequence[int], Sequence[int]], duration_s: float) -> Turn:
    gateway, workers = watched
    loop = asyncio.get_running_loop()
    requests = load.requests()
    clients = [Client(load, requests, number * _CONVERSATIONS // load.clients) for number in range(load.clients)]
    for client in clients:
        await loop.create_connection(lambda one=client: one, "127.0.0.1", port)  # type: ignore[misc]

    def edge() -> _Edge:
        _refuse_failures(clients)
        count = sum(client.count for client in clients)
        return _Edge(time.perf_counter(), count, cpu_s_of(gateway), time.process_time() + cpu_s_of(workers))

    await asyncio.sleep(_WARM_S)
    await _until_it_flows(clients)
    for client in clients:
        client.latencies.clear()
    began = edge()
    await asyncio.sleep(duration_s)
    return _between(began, edge(), [latency for client in clients for latency in client.latencies])


async def _until_it_flows(clients: Sequence[Client]) -> None:
    """Who is slow to begin has more time for it."""
    deadline = time.monotonic() + _BEGIN_S
    while time.monotonic() < deadline and not any(client.count for client in clients):
        _refuse_failures(clients)
        await asyncio.sleep(0.01)


def _refuse_failures(clients: Sequence[Client]) -> None:
    if failed := [client.failure for client in clients if client.failure]:
        raise UnexpectedAnswerError(f"{len(failed)} of {len(clients)} clients: {failed[0]}")


def _between(began: _Edge, ended: _Edge, latencies: Sequence[float]) -> Turn:
    took_s, count = ended.at - began.at, ended.count - began.count
    if not count:
        raise UnexpectedAnswerError(f"no answer within {took_s:.1f} s")
    gateway_s = ended.gateway_cpu_s - began.gateway_cpu_s
    return Turn(
        per_s=count / took_s,
        cpu_us=gateway_s / count * 1e6,
        p50_us=statistics.median(latencies) * 1e6 if latencies else 0.0,
        gateway_cores=gateway_s / took_s,
        load_cores=(ended.load_cpu_s - began.load_cpu_s) / took_s,
    )


def _run(arguments: tuple[Any, ...], cores: Cores, outcome: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cores.take_for_load()
    try:
        outcome.send(uvloop.run(_drive(*arguments)))
    except (OSError, UnexpectedAnswerError) as error:
        outcome.send(UnexpectedAnswerError(str(error)))


def take_turn(
    port: int, load: Load, *, gateway: Sequence[int], workers: Sequence[int], cores: Cores, duration_s: float
) -> Turn:
    """One turn; UnexpectedAnswerError when an answer is wrong. ``gateway`` and ``workers`` are process ids."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    arguments = (port, load, (gateway, workers), duration_s)
    process = context.Process(target=_run, args=(arguments, cores, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        outcome = ours.recv() if ours.poll(_WARM_S + duration_s + _PATIENCE_S) else None
    except EOFError:
        outcome = None
    finally:
        process.kill()
        process.join()
    if isinstance(outcome, Turn):
        return outcome
    raise outcome or UnexpectedAnswerError(f"no outcome of {load}")
