"""The scripted worker and all gateways in front of it, started, asked once, and stopped until it is their turn."""

from __future__ import annotations

import contextlib
import http.client
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.contenders import free_port, inherited_environment
from benchmarks.front import gateways, our_front
from benchmarks.front.cores import Cores
from benchmarks.front.gateways import Gateway
from benchmarks.front.load import PATH, Load
from benchmarks.front.scripted_worker import ANSWERS, Places
from benchmarks.machine import ROOT
from benchmarks.options import say
from benchmarks.process_tree import ProcessTree

DIRECT = "direct"
_INSTANCES = 3
_START_LIMIT_S = 40.0
_ASK_EVERY_S = 0.05
_SMALL = Load("plain", clients=1)


@dataclass(frozen=True)
class Contender:
    """``tree`` is None for no gateway at all: the clients ask the worker itself."""

    name: str
    port: int
    tree: ProcessTree | None

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        """It runs within, and is stopped (SIGSTOP) otherwise: routers poll, and would cost the others."""
        if self.tree is None:
            yield
            return
        self.tree.thaw()
        try:
            yield
            self.tree.assert_lives()
        finally:
            self.tree.freeze()


@dataclass
class Arena:
    """``missing`` are not installed, with how to get them; ``failed`` did not start or gave wrong answers, with why."""

    cores: Cores
    worker: ProcessTree
    places: Places
    contenders: list[Contender]
    missing: dict[str, str]
    failed: dict[str, str] = field(default_factory=dict)

    def fail(self, name: str, words: str) -> None:
        """A peer's failure is told; without ours and the floor there is nothing to tell: RuntimeError."""
        if name not in _PEERS:
            raise RuntimeError(f"{name}: {words}")
        say(f"{name}: {words}")
        self.failed[name] = words


_PEERS = {gateway.name for gateway in gateways.GATEWAYS if not gateway.is_floor}


@contextlib.contextmanager
def arena(folder: Path, python: Path = our_front.PYTHON) -> Iterator[Arena]:
    """When it is left nothing of it lives. ``python`` runs our front."""
    cores = Cores.here()
    places = Places(
        [str(folder / f"{number}.sock") for number in range(_INSTANCES)], [free_port() for _ in range(_INSTANCES)]
    )
    with contextlib.ExitStack() as stack:
        with cores.started_on(cores.load):
            worker = stack.enter_context(_worker(folder, places))
        _wait_until_served(worker, places.ports[0])
        direct = Contender(DIRECT, places.ports[0], None)
        this = Arena(cores, worker, places, [direct], gateways.missing())
        _start_ours(stack, this, folder, python)
        for gateway in gateways.GATEWAYS:
            if gateway.name not in this.missing:
                _start(stack, gateway, this, folder)
        yield this


def _worker(folder: Path, places: Places) -> ProcessTree:
    argv = [sys.executable, "-m", "benchmarks.front.scripted_worker", "--sockets", *places.sockets]
    return ProcessTree([*argv, "--ports", *map(str, places.ports)], env=environment(), folder=subfolder(folder, "w"))


def _start_ours(stack: contextlib.ExitStack, this: Arena, folder: Path, python: Path) -> None:
    front = our_front.OurFront(subfolder(folder, "ours"), environment(), python)
    with this.cores.started_on(this.cores.gateway):
        stack.enter_context(front)
    front.route(our_front.instances_at(this.places.sockets))
    _wait_until_served(front.tree, front.port)
    front.tree.freeze()
    this.contenders.append(Contender(our_front.NAME, front.port, front.tree))


def _start(stack: contextlib.ExitStack, gateway: Gateway, this: Arena, folder: Path) -> None:
    own = subfolder(folder, gateway.name.replace(" ", "-"))
    port = free_port()
    tree = ProcessTree(gateway.to_argv(own, port, this.places), env=environment(), folder=own)
    with this.cores.started_on(this.cores.gateway):
        stack.enter_context(tree)
    try:
        _wait_until_served(tree, port)
    except RuntimeError as error:
        this.fail(gateway.name, f"did not start: {error}")
        return
    tree.freeze()
    this.contenders.append(Contender(gateway.name, port, tree))


def subfolder(folder: Path, name: str) -> Path:
    own = folder / name
    own.mkdir()
    return own


def environment() -> dict[str, str]:
    """Ours runs from anywhere; Debian's servers lie where a login of no administrator does not look."""
    env = inherited_environment()
    return env | {"PYTHONPATH": str(ROOT), "PATH": f"{env.get('PATH', '')}:/usr/sbin:/sbin"}


def _wait_until_served(tree: ProcessTree, port: int) -> None:
    """A small answer came through it, byte for byte what the worker sends."""
    deadline = time.monotonic() + _START_LIMIT_S
    while (words := _ask_once(port)) and time.monotonic() < deadline:
        tree.assert_lives()
        time.sleep(_ASK_EVERY_S)
    if words:
        raise RuntimeError(f"{words}.\nIt said: {tree.said()[-2000:]}")


def _ask_once(port: int) -> str:
    """What is wrong with the answer; nothing if it is right."""
    body = _SMALL.requests()[0].partition(b"\r\n\r\n")[2]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", PATH, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        said = answer.read()
    except (OSError, http.client.HTTPException) as error:
        return f"no answer ({error!r})"
    finally:
        connection.close()
    if answer.status == 200 and said == ANSWERS[b"plain"]:
        return ""
    return f"it answered {answer.status} {said[:200]!r}"
