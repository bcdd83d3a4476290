"""Open-loop load: requests come when the schedule says so, whatever has become of those before.

A program of its own, so that neither the test that drives it nor the server that it asks slows it down:
``python -m tests.history.load PLAN``, with the plan as JSON. Commands come as JSON lines on standard input
(``{"mix": …}``, ``{"rate": …}``, ``{"stop": true}``); standard output tells a few times a second how far it is.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import uvloop

from tests.history.client import Client
from tests.history.mix import Dice, Mix
from tests.history.records import Appender, Request

#: How far apart the schedule is looked at; whatever is due then is sent at once.
_TICK_S = 0.002
_TELL_EVERY_S = 0.1
#: So many bytes of history are written together.
_WRITE_BYTES = 256 * 1024
#: A server that falls so far behind will not come back.
_MOST_OPEN = 8000


@dataclass(frozen=True)
class Plan:
    port: int
    history: Path
    mix: Mix
    rate: float  # requests a second
    prefix: str = "r"
    seed: int = 0
    count: int | None = None  # stop after so many; None: when told to
    timeout_s: float = 60.0  # of one request

    @staticmethod
    def of(said: dict[str, Any]) -> Plan:
        return Plan(**{**said, "history": Path(said["history"]), "mix": Mix.of(said["mix"])})


class Load:
    """Sends, and writes one line of history for each request at its end."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._mix, self._rate = plan, plan.mix, plan.rate
        self._dice = Dice(plan.prefix, plan.seed)
        self._history = Appender(plan.history)
        self._lines: list[bytes] = []
        self._bytes = 0
        self._client = Client(plan.port, plan.timeout_s, self._finished, self._strayed)
        self._unread = b""  # of a command
        self._is_stopping = False

    async def run(self) -> None:
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), self._obey)
        began = time.monotonic()
        telling = asyncio.create_task(self._tell(), name="tell")
        await self._send()
        while self._client.open:
            await asyncio.sleep(_TICK_S)
        telling.cancel()
        self._client.close()
        self._flush()
        used = resource.getrusage(resource.RUSAGE_SELF)
        cpu_s = used.ru_utime + used.ru_stime
        self._history.event(
            "load", prefix=self._plan.prefix, sent=self._dice.made, began=began, cpu_s=round(cpu_s, 2)
        )  # fmt: skip
        self._say_how_far()

    async def _send(self) -> None:
        due = time.monotonic()
        while not self._is_stopping:
            now = time.monotonic()
            while due <= now and not self._is_stopping:
                self._client.start(self._dice.request(self._mix, due))
                due += self._dice.wait_s(self._rate)
                self._is_stopping |= self._dice.made == self._plan.count
            if self._client.open > _MOST_OPEN:
                raise RuntimeError(f"{self._client.open} requests are open: the server does not keep up")
            await asyncio.sleep(max(_TICK_S, due - time.monotonic()))

    def _finished(self, request: Request) -> None:
        self._append(orjson.dumps(request))

    def _strayed(self, connection: int, data: bytes) -> None:
        said = {"event": "stray", "at": time.monotonic(), "connection": connection, "data": repr(data[:200])}
        self._append(orjson.dumps(said))

    # ---- the history --------------------------------------------------------------------------------------

    def _append(self, line: bytes) -> None:
        self._lines.append(line)
        self._bytes += len(line)
        if self._bytes > _WRITE_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._lines:
            self._history.write(b"\n".join([*self._lines, b""]))
        self._lines, self._bytes = [], 0

    # ---- the driver ---------------------------------------------------------------------------------------

    def _obey(self) -> None:
        data = os.read(sys.stdin.fileno(), 1 << 20)
        if not data:
            self._is_stopping = True
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            said = json.loads(line)
            if "mix" in said:
                self._mix = Mix.of(said["mix"])
            self._rate = said.get("rate", self._rate)
            self._is_stopping |= said.get("stop", False)

    async def _tell(self) -> None:
        while True:
            self._say_how_far()
            await asyncio.sleep(_TELL_EVERY_S)

    def _say_how_far(self) -> None:
        print(json.dumps({"sent": self._dice.made, "open": self._client.open}), flush=True)


def main(argv: list[str]) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(Load(Plan.of(json.loads(argv[1]))).run())


if __name__ == "__main__":
    main(sys.argv)
