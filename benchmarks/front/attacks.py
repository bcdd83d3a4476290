"""A normal client beside an attacker: its slow requests against those of a calm turn, and what the front holds after it."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import uvloop

from benchmarks.figures import Findings, Goal, Row
from benchmarks.front.arena import environment, subfolder
from benchmarks.front.attackers import ATTACKS, CHAT, request
from benchmarks.front.our_front import OurFront, instances_at
from benchmarks.front.scripted_worker import response
from benchmarks.front.witness import Asker, Connection, Request, Witness, answers
from benchmarks.machine import ROOT
from benchmarks.options import Options, say

_ROUNDS = 3
_TURN_S, _QUICK_TURN_S = 4.0, 0.5
_WARM_S = 0.5
_APART_S = 0.004
#: About as much as vLLM writes.
_METRICS = "".join(f'engine_metric{{bucket="{number}"}} {number}\n' for number in range(2000)).encode()
_ORDINARY = request("POST", CHAT, b'{"model": "demo", "messages": [{"role": "user", "content": "hi"}]}')
_MOST_TIMES, _MOST_MB = Goal(2.0, is_upper=True), Goal(64.0, is_upper=True)


def run(options: Options) -> Findings:
    turn_s = _QUICK_TURN_S if options.is_quick else _TURN_S
    with tempfile.TemporaryDirectory(prefix="ichat-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with OurFront(subfolder(folder, "ours"), environment()) as front:
            rows = uvloop.run(_measure(front, folder, options.rounds_or(_ROUNDS), turn_s))
    return Findings(rows, {"rounds": options.rounds_or(_ROUNDS), "turn_s": turn_s})


async def _measure(front: OurFront, folder: Path, rounds: int, turn_s: float) -> list[Row]:
    worker = Witness(str(folder / "worker"), _engine)
    await worker.start()
    await asyncio.to_thread(front.route, instances_at([worker.path]))
    rows: list[Row] = []
    try:
        await _latencies(front.port, worker, turn_s)  # the first requests open connections
        for name in ATTACKS:
            say(name)
            rows += await _beside(front, worker, name, rounds, turn_s)
    finally:
        worker.kill()
    return rows


def _engine(connection: Connection, asked: Request) -> None:
    if asked.target == b"/metrics":
        connection.write(response(_METRICS, content_type="text/plain"))
    else:
        answers(connection, asked)


async def _beside(front: OurFront, worker: Witness, name: str, rounds: int, turn_s: float) -> list[Row]:
    """Calm and attacked turns after each other, so that a slower minute of the machine slows both."""
    calm, attacked, held = [], [], []
    for _ in range(rounds):
        before_kib = front.tree.rss_kib()
        calm.append(_p99(await _latencies(front.port, worker, turn_s)))
        with _attacker(name, front.port):
            await asyncio.sleep(_WARM_S)
            attacked.append(_p99(await _latencies(front.port, worker, turn_s)))
            held.append((front.tree.rss_kib() - before_kib) / 1024)
        await asyncio.sleep(_WARM_S)
    ratios = [one / other for one, other in zip(attacked, calm, strict=True)]
    sides = {"attacked, ms": statistics.median(attacked) * 1e3, "calm, ms": statistics.median(calm) * 1e3}
    low, high = min(ratios), max(ratios)
    return [
        Row(f"p99 beside {name}", statistics.median(ratios), "×", _MOST_TIMES, low, high, sides, ratios),
        Row(f"… RSS that it adds in a turn, {name}", max(held), "MB", _MOST_MB),
    ]


async def _latencies(port: int, worker: Witness, turn_s: float) -> list[float]:
    """Of one client that asks, waits for the answer, and asks again a moment later. RuntimeError: one was not served."""
    asker, taken, end = Asker(port), list[float](), time.monotonic() + turn_s
    while time.monotonic() < end:
        began = time.perf_counter()
        answer = await asker.ask(_ORDINARY)
        if answer.status != 200:
            raise RuntimeError(f"the normal client was answered {answer.status}: {answer.body[:200]!r}")
        taken.append(time.perf_counter() - began)
        worker.seen.clear()
        await asyncio.sleep(_APART_S)
    asker.leave()
    return taken


def _p99(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


@contextlib.contextmanager
def _attacker(name: str, port: int) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.front.attackers", name, str(port)], cwd=ROOT)
    try:
        yield
    finally:
        if process.poll() is not None:
            raise RuntimeError(f"{name}: the attacker ended by itself, with {process.returncode}")
        process.kill()
        process.wait()
