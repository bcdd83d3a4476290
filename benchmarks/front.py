"""What the front costs, beside a TCP splice that parses nothing and beside no gateway at all.

All three carry the same load to the same scripted worker on a unix socket, one after the other in short turns, so
that whatever else the machine does falls on all of them. CPU is the scheduler's own count for the gateway's process.
Run it with the development environment: ``python benchmarks/front.py``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import itertools
import json
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httptools
import uvloop

from ichat.config.schema import Limits, Timeouts
from ichat.ipc import channel, messages

SMALL_BODY = json.dumps(
    {"model": "demo", "messages": [{"role": "user", "content": "What is a front? " * 8}], "max_tokens": 16}
).encode()
ANSWER = json.dumps({"id": "chatcmpl-1", "object": "chat.completion", "model": "demo", "choices": ["x" * 200]}).encode()
EVENT = b"data: " + json.dumps({"id": "chatcmpl-1", "choices": [{"delta": {"content": "token"}}]}).encode() + b"\n\n"
BIG_ANSWER = b"x" * 256 * 1024
PACE_S = 0.01
RESPONSE_HEAD = (
    b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ndate: Sat, 21 Nov 2026 10:00:00 GMT\r\ncontent-type: %b\r\n%b\r\n\r\n"
)


def plain_response(body: bytes, content_type: bytes = b"application/json") -> bytes:
    return RESPONSE_HEAD % (content_type, b"content-length: %d" % len(body)) + body


STREAM_HEAD = RESPONSE_HEAD % (b"text/event-stream; charset=utf-8", b"transfer-encoding: chunked")
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
DONE = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


# ---- the worker: what is asked tells what it answers ---------------------------------------------------------------


class ScriptedWorker(asyncio.Protocol):
    """Small answers, large ones, streams at a pace, streams as fast as they are taken."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.parser = httptools.HttpRequestParser(self)
        self.url = b""
        self.is_writable = asyncio.Event()
        self.is_writable.set()

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self.url = url

    def on_message_complete(self) -> None:
        path, _, count = self.url.partition(b"?n=")
        if path == b"/v1/completions":
            self.transport.write(plain_response(ANSWER))
        elif path == b"/pooling":
            self.transport.write(plain_response(BIG_ANSWER))
        elif path == b"/v1/chat/completions":
            self.task = asyncio.get_running_loop().create_task(self.pace(int(count)))
        else:
            self.task = asyncio.get_running_loop().create_task(self.flood(int(count)))

    async def pace(self, count: int) -> None:
        self.transport.write(STREAM_HEAD)
        due = time.monotonic()
        for _ in range(count):
            if self.transport.is_closing():
                return
            self.transport.write(CHUNK)
            due += PACE_S
            await asyncio.sleep(max(0, due - time.monotonic()))
        self.transport.write(DONE)

    async def flood(self, count: int) -> None:
        self.transport.write(STREAM_HEAD)
        for index in range(count):
            if self.transport.is_closing():
                return
            self.transport.write(CHUNK)
            if index % 16 == 0:
                await asyncio.sleep(0)
                await self.is_writable.wait()
        self.transport.write(DONE)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.is_writable.set()

    def pause_writing(self) -> None:
        self.is_writable.clear()

    def resume_writing(self) -> None:
        self.is_writable.set()


def run_worker(path: str, port: int) -> None:
    async def serve() -> None:
        loop = asyncio.get_running_loop()
        on_unix = await loop.create_unix_server(ScriptedWorker, path, backlog=1024)
        on_tcp = await loop.create_server(ScriptedWorker, "127.0.0.1", port, backlog=1024)
        await asyncio.gather(on_unix.serve_forever(), on_tcp.serve_forever())

    uvloop.run(serve())


# ---- the floor: bytes in, bytes out --------------------------------------------------------------------------------


class SpliceUp(asyncio.Protocol):
    def __init__(self, down: SpliceDown) -> None:
        self.down = down

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self.down.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.down.transport.close()


class SpliceDown(asyncio.Protocol):
    def __init__(self, connect: Callable[[SpliceDown], Any]) -> None:
        self.connect = connect
        self.up: SpliceUp | None = None
        self.early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.task = asyncio.get_running_loop().create_task(self.open())

    async def open(self) -> None:
        _, self.up = await self.connect(self)
        for data in self.early:
            self.up.transport.write(data)

    def data_received(self, data: bytes) -> None:
        if self.up is None:
            self.early.append(data)
        else:
            self.up.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self.up is not None:
            self.up.transport.close()


def run_splice(port: int, path: str, worker_port: int) -> None:
    async def serve() -> None:
        loop = asyncio.get_running_loop()

        def connect(down: SpliceDown) -> Any:
            if path:
                return loop.create_unix_connection(lambda: SpliceUp(down), path)
            return loop.create_connection(lambda: SpliceUp(down), "127.0.0.1", worker_port)

        server = await loop.create_server(lambda: SpliceDown(connect), "127.0.0.1", port, backlog=1024)
        await server.serve_forever()

    uvloop.run(serve())


# ---- the load ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Load:
    """``target`` tells the worker what to answer; ``unit`` is what is counted: whole answers, or events."""

    target: str
    clients: int
    duration_s: float
    is_stream: bool = False
    answer_bytes: int = 0

    def request(self, padding: int = 0) -> bytes:
        """As an OpenAI client sends it. ``padding``: no two conversations have the same length."""
        body = SMALL_BODY + b" " * padding
        return (
            f"POST {self.target} HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nAccept: application/json\r\n"
            f"Content-Type: application/json\r\nUser-Agent: load/1\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode() + body


class LoadClient(asyncio.Protocol):
    def __init__(self, load: Load, latencies: list[float]) -> None:
        self.load, self.latencies = load, latencies
        self.requests_to_send = itertools.cycle([load.request(padding) for padding in range(64)])
        self.left = -1
        self.count = 0
        self.requests = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.ask()

    def ask(self) -> None:
        self.left = -1
        self.asked_at = time.perf_counter()
        self.transport.write(next(self.requests_to_send))

    def data_received(self, data: bytes) -> None:
        if self.load.is_stream:
            self.count += data.count(b"data: {")
            if data.endswith(b"0\r\n\r\n"):
                self.requests += 1
                self.ask()
            return
        if self.left < 0:
            if not data.startswith(b"HTTP/1.1 200"):
                raise SystemExit(f"unexpected answer: {data[:300]!r}")
            self.left = data.index(b"\r\n\r\n") + 4 + self.load.answer_bytes
        self.left -= len(data)
        if self.left == 0:
            self.count += 1
            self.latencies.append(time.perf_counter() - self.asked_at)
            self.ask()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.transport = None


def run_load(port: int, load: Load, results: Any) -> None:
    async def drive() -> None:
        loop = asyncio.get_running_loop()
        latencies: list[float] = []
        clients = []
        for _ in range(load.clients):
            _, client = await loop.create_connection(lambda: LoadClient(load, latencies), "127.0.0.1", port)
            clients.append(client)
        await asyncio.sleep(0.2)  # connections are open, and so are those to the worker
        results.put(None)
        latencies.clear()
        before, began = sum(client.count for client in clients), time.perf_counter()
        requests = sum(client.requests for client in clients)
        await asyncio.sleep(load.duration_s)
        count = sum(client.count for client in clients) - before
        requests = sum(client.requests for client in clients) - requests
        p50 = statistics.median(latencies) * 1e6 if latencies else 0.0
        results.put((count / (time.perf_counter() - began), count + requests, p50))

    uvloop.run(drive())


# ---- measuring -----------------------------------------------------------------------------------------------------


def cpu_s(pid: int) -> float:
    return sum(int(task.read_text().split()[0]) for task in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def rss_kb(pid: int) -> int:
    return next(int(line.split()[1]) for line in Path(f"/proc/{pid}/status").open() if line.startswith("VmRSS"))


@dataclasses.dataclass
class Target:
    name: str
    port: int
    pid: int | None


@dataclasses.dataclass
class Measured:
    """``per_s`` counts answers or events; ``cpu_us`` is the gateway's for each of them."""

    per_s: float
    cpu_us: float
    p50_us: float


def measure(target: Target, load: Load) -> Measured:
    results: Any = multiprocessing.Queue()
    process = multiprocessing.Process(target=run_load, args=(target.port, load, results))
    process.start()
    assert process.pid is not None
    give_cores(process.pid, is_gateway=False)
    results.get(timeout=20)
    before = cpu_s(target.pid) if target.pid else 0.0
    per_s, count, p50 = results.get(timeout=20 + load.duration_s)
    spent = (cpu_s(target.pid) if target.pid else 0.0) - before
    process.join()
    return Measured(per_s, spent / max(count, 1) * 1e6, p50)


def interleaved(targets: list[Target], load: Load, rounds: int) -> dict[str, Measured]:
    """Medians of short turns taken in rotation."""
    runs: dict[str, list[Measured]] = {target.name: [] for target in targets}
    for _ in range(rounds):
        for target in targets:
            runs[target.name].append(measure(target, load))
    return {
        name: Measured(
            *(statistics.median(getattr(one, field.name) for one in measured) for field in dataclasses.fields(Measured))
        )
        for name, measured in runs.items()
    }


# ---- the processes -------------------------------------------------------------------------------------------------


def give_cores(pid: int, *, is_gateway: bool) -> None:
    """The gateway has one core, load and worker share another: so it is the gateway that is measured."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(pid, {cores[1 if is_gateway else 0]})


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def process(run: Callable[..., None], *arguments: Any, is_gateway: bool = False) -> Iterator[int]:
    child = multiprocessing.Process(target=run, args=arguments, daemon=True)
    child.start()
    assert child.pid is not None
    give_cores(child.pid, is_gateway=is_gateway)
    try:
        yield child.pid
    finally:
        child.kill()
        child.join()


@contextlib.contextmanager
def front_process(worker_path: str) -> Iterator[Target]:
    """The front as the launcher starts it."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    ours, theirs = channel.pair()
    argv = [
        sys.executable,
        "-m",
        "ichat.front",
        "--control-fd",
        str(theirs.fileno()),
        "--listen-fd",
        str(listener.fileno()),
    ]
    child = subprocess.Popen(argv, pass_fds=(theirs.fileno(), listener.fileno()))
    give_cores(child.pid, is_gateway=True)
    theirs.close()
    start = messages.StartFront(Limits().model_dump(mode="json"), Timeouts().model_dump(mode="json"), [])
    instance = messages.Instance("demo/0", "a", worker_path)
    model = messages.RouteModel("demo", ["demo"], "fake", "ready", "", time.time(), [instance])
    ours.sendall(channel.encode(start) + channel.encode(messages.Routes([model], was_ready=True)))
    ours.settimeout(10)
    assert b"FrontUp" in ours.recv(65536)
    try:
        yield Target("front", listener.getsockname()[1], child.pid)
    finally:
        child.terminate()
        child.wait(5)
        ours.close()
        listener.close()


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


# ---- what is held at once ------------------------------------------------------------------------------------------


def open_streams(port: int, count: int, target: str) -> list[socket.socket]:
    load = Load(target, 1, 0)
    streams = []
    for _ in range(count):
        sock = socket.create_connection(("127.0.0.1", port))
        sock.sendall(load.request())
        streams.append(sock)
    return streams


def memory(front: Target) -> list[dict[str, Any]]:
    assert front.pid is not None
    idle_kb = rss_kb(front.pid)
    stalled = open_streams(front.port, 4, "/v1/responses?n=2000000")  # an endless flood that nobody reads
    time.sleep(1.5)
    stalled_kb = rss_kb(front.pid)
    for sock in stalled:
        sock.close()
    time.sleep(0.5)
    before_kb = rss_kb(front.pid)
    streams = open_streams(front.port, 200, "/v1/chat/completions?n=150")
    time.sleep(1.0)
    per_stream_kb = (rss_kb(front.pid) - before_kb) / len(streams)
    for sock in streams:
        sock.close()
    return [
        row("RSS idle, MB", idle_kb / 1024, "≤ 50"),
        row("RSS for each open stream, KB", per_stream_kb, "≤ 10"),
        row("RSS of 4 stalled readers, MB", (stalled_kb - idle_kb) / 1024, "≤ 5"),
    ]


def row(figure: str, value: float, goal: str = "") -> dict[str, Any]:
    """``goal`` is `≤ 1.5`, `≥ 0.75`, or nothing where the figure is only there to compare with."""
    sign, _, bound = goal.partition(" ")
    is_met = {"": True, "≤": value <= float(bound or 0), "≥": value >= float(bound or 0)}[sign]
    return {"figure": figure, "value": round(value, 3), "goal": goal, "met": is_met}


def main(rounds: int = 5, duration_s: float = 1.0) -> list[dict[str, Any]]:
    """The acceptance figures of the front, each with its goal and whether it was met."""
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        path, worker_port, splice_port, unix_splice_port = f"{directory}/w.sock", free_port(), free_port(), free_port()
        stack.enter_context(process(run_worker, path, worker_port))
        wait_for(worker_port)
        splice_pid = stack.enter_context(process(run_splice, splice_port, "", worker_port, is_gateway=True))
        unix_splice_pid = stack.enter_context(process(run_splice, unix_splice_port, path, 0, is_gateway=True))
        wait_for(splice_port)
        wait_for(unix_splice_port)
        front = stack.enter_context(front_process(path))
        rows = memory(front)
        direct = Target("direct", worker_port, None)
        splice = Target("splice", splice_port, splice_pid)
        unix_splice = Target("unix splice", unix_splice_port, unix_splice_pid)
        everything = [direct, splice, unix_splice, front]

        small = interleaved(everything, Load("/v1/completions", 32, duration_s, answer_bytes=len(ANSWER)), rounds)
        alone = interleaved(
            [direct, splice, front], Load("/v1/completions", 1, duration_s, answer_bytes=len(ANSWER)), rounds
        )
        streams = interleaved(everything, Load("/v1/chat/completions?n=100", 64, duration_s, is_stream=True), rounds)
        flood = interleaved(
            [direct, splice, front], Load("/v1/responses?n=5000", 8, duration_s, is_stream=True), rounds
        )
        large = interleaved(
            [direct, splice, front], Load("/pooling", 4, duration_s, answer_bytes=len(BIG_ANSWER)), rounds
        )
        rows += [
            row("CPU for a small request against the splice", small["front"].cpu_us / small["splice"].cpu_us, "≤ 1.5"),
            row("CPU for a small request, µs", small["front"].cpu_us),
            row("… of the splice over TCP, µs", small["splice"].cpu_us),
            row("… of the splice to the unix socket, µs", small["unix splice"].cpu_us),
            row("requests/s at 32 clients against direct", small["front"].per_s / small["direct"].per_s, "≥ 0.75"),
            row("… of the splice over TCP", small["splice"].per_s / small["direct"].per_s),
            row("added p50 at 1 client, µs", alone["front"].p50_us - alone["direct"].p50_us),
            row("… of the splice over TCP, µs", alone["splice"].p50_us - alone["direct"].p50_us),
            row("64 streams: chunks/s against direct", streams["front"].per_s / streams["direct"].per_s, "≥ 0.99"),
            row(
                "64 streams: CPU for a chunk against the splice",
                streams["front"].cpu_us / streams["splice"].cpu_us,
                "≤ 1.3",
            ),
            row("64 streams: CPU for a chunk, µs", streams["front"].cpu_us),
            row("… of the splice to the unix socket, µs", streams["unix splice"].cpu_us),
            row("flood: chunks/s against direct", flood["front"].per_s / flood["direct"].per_s, "≥ 1.0"),
            row("… of the splice over TCP", flood["splice"].per_s / flood["direct"].per_s),
            row("CPU for a 256 KB answer, µs", large["front"].cpu_us),
            row("… of the splice over TCP, µs", large["splice"].cpu_us),
        ]
        return rows


def print_table(rows: list[dict[str, Any]]) -> None:
    width = max(len(one["figure"]) for one in rows)
    for one in rows:
        print(f"{one['figure']:<{width}}  {one['value']:>10}  {one['goal']:>8}  {'yes' if one['met'] else 'NO'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--duration-s", type=float, default=1.0)
    chosen = parser.parse_args()
    print_table(main(chosen.rounds, chosen.duration_s))
