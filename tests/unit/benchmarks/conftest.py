"""The scripted worker as the benchmark of the front runs it."""

import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.contenders import free_port
from benchmarks.front.arena import environment
from benchmarks.front.cores import Cores
from benchmarks.process_tree import ProcessTree


@dataclass(frozen=True)
class Scripted:
    port: int
    tree: ProcessTree


@pytest.fixture
def any_cores() -> Cores:
    """None is set aside: a test shares the machine with others."""
    return Cores(min(os.sched_getaffinity(0)), min(os.sched_getaffinity(0)))


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[Scripted]:
    """It listens."""
    port = free_port()
    argv = [sys.executable, "-m", "benchmarks.front.scripted_worker", "--ports", str(port)]
    with ProcessTree(argv, env=environment(), folder=tmp_path) as tree:
        while not _is_open(port):
            tree.assert_lives()
        yield Scripted(port, tree)


def _is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True
