"""The load is open: a server that is slow, or silent, does not slow it down."""

from __future__ import annotations

import socket
import time
from pathlib import Path

from tests.history.driven_load import DrivenLoad
from tests.history.mix import Mix, Target
from tests.history.records import read

MIX = Mix((Target("a", "a"),))


def test_requests_come_when_they_are_due_though_nobody_answers(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as silent:
        port = silent.getsockname()[1]
        with DrivenLoad(port, tmp_path / "h", MIX, rate=1000, seed=3, timeout_s=1.0, count=500, prefix="x") as load:
            pass
    history = read(tmp_path / "h")
    assert load.sent == len(history.requests) == 500
    assert {request.outcome for request in history.requests} == {"timeout"}
    due = [request.t_due for request in history.requests]
    assert 0.35 < due[-1] - due[0] < 0.7
    (end,) = history.of("load")
    assert (end.said["prefix"], end.said["sent"]) == ("x", 500)


def test_the_load_obeys_while_it_runs(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as silent:
        port = silent.getsockname()[1]
        with DrivenLoad(port, tmp_path / "h", MIX, rate=1, seed=3, timeout_s=0.05) as load:
            load.ask_for(Mix((Target("b", "b-alias"),)))
            load.send_at(2000)
            end = time.monotonic() + 10
            while load.sent < 100:
                assert time.monotonic() < end
    names = [request.name for request in read(tmp_path / "h").requests]
    assert names.count("b-alias") > 90
