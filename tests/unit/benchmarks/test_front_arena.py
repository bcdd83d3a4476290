"""Everybody who is compared is started, answers, and leaves nothing behind."""

import os
import socket
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks.front import gateways
from benchmarks.front.arena import DIRECT, arena
from benchmarks.front.our_front import NAME as OURS
from benchmarks.front.scripted_worker import Places


def test_whoever_is_installed_takes_part_and_whoever_is_not_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each is asked once, and has answered as the worker does, before it is among the contenders."""
    cores = os.sched_getaffinity(0)
    with arena(tmp_path, Path(sys.executable)) as this:
        names = [contender.name for contender in this.contenders]
        pids = [pid for contender in this.contenders if contender.tree for pid in contender.tree.pids()]
        states = {psutil.Process(pid).status() for pid in pids}
        socket.create_connection(("127.0.0.1", this.contenders[0].port)).close()
    expected = {gateway.name for gateway in gateways.GATEWAYS} | {DIRECT, OURS}
    assert set(names) | set(this.missing) == expected, capsys.readouterr().out
    assert states == {psutil.STATUS_STOPPED}
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert os.sched_getaffinity(0) == cores


def test_who_is_missing_is_told_how_to_be_had() -> None:
    peers = [gateway for gateway in gateways.GATEWAYS if not gateway.is_floor]
    assert all(gateway.install for gateway in peers)
    assert set(gateways.missing()) <= {gateway.name for gateway in peers}


@pytest.mark.parametrize("gateway", gateways.GATEWAYS, ids=lambda gateway: gateway.name)
def test_every_gateway_is_told_its_port_and_a_worker(gateway: gateways.Gateway, tmp_path: Path) -> None:
    argv = gateway.to_argv(tmp_path, 12345, Places(["/run/a.sock"], [23456]))
    told = " ".join(argv) + "".join(path.read_text() for path in tmp_path.iterdir())
    assert "12345" in told
    assert "/run/a.sock" in told or "23456" in told
