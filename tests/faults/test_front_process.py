"""The front as a process: how it starts, what it holds, and that it never outlives its launcher."""

import asyncio
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import uvloop

from ichat.errors import ExitCode
from ichat.ipc import channel, messages
from tests.unit.front.raw_client import Client, request
from tests.unit.front.running_front import listening_socket, start_message
from tests.unit.front.scripted_worker import ScriptedWorker, Turn, running_worker

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy:pytest.PytestDeprecationWarning")


class FrontProcess:
    """``python -m ichat.front`` with our end of its channel."""

    def __init__(self, *, preexec: str = "") -> None:
        self.listener = listening_socket()
        self.port = self.listener.getsockname()[1]
        self.ours, theirs = channel.pair()
        self.ours.settimeout(10)
        fds = (theirs.fileno(), self.listener.fileno())
        argv = [sys.executable, "-m", "ichat.front", "--control-fd", str(fds[0]), "--listen-fd", str(fds[1])]
        if preexec:
            argv = ["sh", "-c", f'{preexec}; exec "$@"', "sh", *argv]
        self.process = subprocess.Popen(argv, pass_fds=fds, start_new_session=True, stderr=subprocess.PIPE)
        theirs.close()
        self._received = b""

    def tell(self, message: messages.Message) -> None:
        self.ours.sendall(channel.encode(message))

    def hear(self) -> messages.Message:
        while b"\n" not in self._received:
            data = self.ours.recv(65536)
            assert data, "the front is gone"
            self._received += data
        line, self._received = self._received.split(b"\n", 1)
        return channel.decode(line)

    def begin(self, worker: ScriptedWorker | None = None) -> None:
        self.tell(start_message())
        instances = [messages.Instance("demo/0", "a", worker.path)] if worker else []
        state: messages.State = "ready" if worker else "starting"
        model = messages.RouteModel(
            "demo", ["demo"], "fake", state, "" if worker else "weights", time.time(), instances
        )
        self.tell(messages.Routes([model], was_ready=bool(worker)))
        assert self.hear() == messages.FrontUp()
        self.tell(messages.Ping(1))
        while self.hear() != messages.Pong(1):
            pass

    def rss_kb(self) -> int:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.ours.close()
        self.listener.close()


@pytest.fixture
def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
    return uvloop.EventLoopPolicy()


@pytest.fixture
def front() -> Iterator[FrontProcess]:
    one = FrontProcess()
    yield one
    one.close()


@pytest.fixture
async def worker() -> AsyncIterator[ScriptedWorker]:
    async with running_worker() as one:
        yield one


async def ask(front: FrontProcess, data: bytes) -> tuple[int, bytes]:
    client = await Client.connect(front.port)
    await client.send(data)
    response = await client.response()
    client.close()
    return response.status, response.body


async def test_it_answers_soon_after_its_start_and_even_those_who_came_before(front: FrontProcess) -> None:
    began = time.monotonic()
    early = await Client.connect(front.port)
    await early.send(request("GET", "/livez", None))
    front.begin()
    assert (await early.response()).status == 200
    assert time.monotonic() - began < 2.0  # a fraction of a second where nothing else runs
    early.close()
    assert await ask(front, request("GET", "/readyz", None)) == (503, b"loading demo: weights, 0 s\n")


async def test_a_stop_after_the_drain_is_clean(front: FrontProcess, worker: ScriptedWorker) -> None:
    front.begin(worker)
    assert (await ask(front, request()))[0] == 200
    front.tell(messages.Drain(time.monotonic() + 5))
    while not isinstance(front.hear(), messages.FrontDrained):
        pass
    front.process.terminate()
    _, stderr = front.process.communicate(timeout=5)
    assert front.process.returncode == ExitCode.OK
    assert b"Traceback" not in stderr


def test_it_leaves_when_its_launcher_does(front: FrontProcess) -> None:
    front.begin()
    front.ours.close()
    assert front.process.wait(5) == ExitCode.SOFTWARE


def test_it_leaves_when_its_launcher_is_killed() -> None:
    """By the kernel's word, also where the channel would not tell: a third process still holds the launcher's end."""
    code = (
        "import subprocess, sys, time; from ichat.ipc import channel; import socket\n"
        "a, b = channel.pair(); l = socket.create_server(('127.0.0.1', 0))\n"
        "h = subprocess.Popen(['sleep', '20'], pass_fds=[a.fileno()])\n"
        "p = subprocess.Popen([sys.executable, '-m', 'ichat.front', '--control-fd', str(b.fileno()),"
        " '--listen-fd', str(l.fileno())], pass_fds=[b.fileno(), l.fileno()])\n"
        "print(p.pid, h.pid, flush=True); time.sleep(20)"
    )
    launcher = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert launcher.stdout is not None
    pid, holder = map(int, launcher.stdout.readline().split())
    try:
        time.sleep(0.3)
        assert Path(f"/proc/{pid}").exists()
        launcher.kill()
        launcher.wait()
        deadline = time.monotonic() + 3
        while _is_alive(pid):
            assert time.monotonic() < deadline, "the front outlived its launcher"
            time.sleep(0.01)
    finally:
        os.kill(holder, signal.SIGKILL)
        launcher.stdout.close()


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_it_raises_its_limit_of_descriptors() -> None:
    front = FrontProcess(preexec="ulimit -S -n 256")
    try:
        front.begin()
        soft, hard = resource.prlimit(front.process.pid, resource.RLIMIT_NOFILE)
        assert soft == hard > 256
    finally:
        front.close()


async def test_where_descriptors_are_few_connections_are_refused_not_reset(worker: ScriptedWorker) -> None:
    front = FrontProcess(preexec="ulimit -n 256")
    try:
        front.begin(worker)
        held = [await Client.connect(front.port) for _ in range(64)]
        for client in held:
            await client.send(request())
            assert (await client.response()).status == 200
        refused = await Client.connect(front.port)
        await refused.send(request())
        response = await refused.response()
        assert (response.status, response.code) == (503, "too_many_connections")
        assert (await ask(front, request("GET", "/readyz", None)))[0] == 200
    finally:
        front.close()


async def test_stalled_readers_cost_no_memory(front: FrontProcess, worker: ScriptedWorker) -> None:
    async def flood(turn: Turn) -> None:
        await turn.start_events()
        while True:
            await turn.chunk(b"data: " + b"a" * 10_000 + b"\n\n")

    front.begin(worker)
    await ask(front, request())
    idle_kb = front.rss_kb()
    assert idle_kb < 50 * 1024
    worker.script = flood
    sockets = [socket.create_connection(("127.0.0.1", front.port)) for _ in range(4)]
    for sock in sockets:
        sock.sendall(request())
    await asyncio.sleep(0.5)
    assert front.rss_kb() - idle_kb < 5 * 1024
    for sock in sockets:
        sock.close()


async def test_an_open_stream_costs_little_memory(front: FrontProcess, worker: ScriptedWorker) -> None:
    async def trickle(turn: Turn) -> None:
        await turn.start_events()
        for _ in range(40):
            await turn.chunk(b"data: {}\n\n")
            await asyncio.sleep(0.05)

    front.begin(worker)
    await ask(front, request())
    worker.script = trickle
    before_kb = front.rss_kb()
    clients = [await Client.connect(front.port) for _ in range(100)]
    for client in clients:
        await client.send(request())
        await client.reader.readuntil(b"\n\n")
    assert (front.rss_kb() - before_kb) / len(clients) < 20
    for client in clients:
        client.close()


async def test_a_header_bomb_costs_no_memory(front: FrontProcess, worker: ScriptedWorker) -> None:
    front.begin(worker)
    await ask(front, request())
    before_kb = front.rss_kb()
    for bomb in (b"X: a\r\n" * 20_000, b"X: " + b"a" * 1_000_000, b"X" * 1_000_000):
        client = await Client.connect(front.port)
        client.writer.write(b"GET /livez HTTP/1.1\r\nHost: a\r\n" + bomb)
        assert (await client.response()).status in (400, 431)
        client.close()
    assert front.rss_kb() - before_kb < 1024
