"""A file system that hangs (here a FIFO that nobody writes to): the service goes on, restarts, and leaves in time."""

from __future__ import annotations

import os
import signal
import socket

import pytest

from tests.faults.test_launcher_faults import QUICK
from tests.launcher_process import Launcher, ask


def hang(it: Launcher) -> None:
    """From now on whoever reads the configuration waits for ever."""
    fifo = it.home / "fifo"
    os.mkfifo(fifo)
    fifo.replace(it.config_path)


@pytest.mark.parametrize("by", ["SIGHUP", "watch"])
def test_a_configuration_that_hangs_does_not_keep_us_from_leaving(by: str) -> None:
    with Launcher(timeouts=QUICK | {"watch_every_s": 0.1}, reload={"watch": by == "watch"}) as it:
        it.wait_ready()
        port, calm = it.port, threads(it)
        hang(it)
        if by == "SIGHUP":
            it.hang_up()
        it.wait_for(lambda: threads(it) > calm, 5)
        assert it.stop(limit_s=5) == 0
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=1)
        it.assert_nothing_left()


def threads(it: Launcher) -> int:
    return len(os.listdir(f"/proc/{it.process.pid}/task"))


def test_plans_that_hang_hold_up_no_restart_and_the_next_ones_are_told() -> None:
    with Launcher(timeouts=QUICK) as it:
        it.wait_ready()
        hang(it)
        plans = []
        for _ in range(9):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(str(it.run_dir / "ichat.sock"))
            sock.sendall(b"GET /plan HTTP/1.0\r\n\r\n")
            plans.append(sock)
        plans[-1].settimeout(5)
        assert b"E-READ-HANGS" in plans[-1].recv(65536)
        os.kill(it.worker_pid, signal.SIGKILL)
        it.wait_for(lambda: it.restarts == 1, 5)
        it.wait_ready()
        for sock in plans:
            sock.close()
        assert it.stop(limit_s=5) == 0
        it.assert_nothing_left()


def test_a_mended_file_is_taken_although_the_reload_before_it_hangs() -> None:
    with Launcher(timeouts=QUICK, engine_args={"tag": "old"}) as it:
        it.wait_ready()
        calm = threads(it)
        hang(it)
        it.hang_up()
        it.wait_for(lambda: threads(it) > calm, 5)
        it.configure(models={"demo": {"engine_args": {"tag": "new"}}})
        it.order("reload", limit_s=20)
        body = '{"model":"demo","prompt":"hi","max_tokens":1}'
        status, answer = ask(it.port, "POST", "/v1/completions", body, {"Content-Type": "application/json"})
        assert status == 200
        assert '"new"' in answer
        assert it.stop(limit_s=5) == 0
