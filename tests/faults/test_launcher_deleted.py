"""What cleaners of /tmp and busy hands delete under a running ichat, and what it was started without."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.test_launcher_faults import QUICK
from tests.launcher_process import Launcher, ask

BODY = '{"model":"demo","prompt":"hi","max_tokens":1}'


def complete(it: Launcher) -> int:
    return ask(it.port, "POST", "/v1/completions", BODY, {"Content-Type": "application/json"}, timeout_s=10)[0]


def worker_sockets(it: Launcher) -> list[Path]:
    return sorted(it.run_dir.glob("w/*/http.sock"))


def open_to_others(it: Launcher) -> list[str]:
    """Below the run directory, the directory included: what others than its user may do anything with."""
    found = [it.run_dir, *(path for path in it.run_dir.rglob("*") if path.is_dir() or path.is_socket())]
    return [f"{path} {path.stat().st_mode:o}" for path in found if stat.S_IMODE(path.stat().st_mode) & 0o077]


def test_a_deleted_socket_is_red_within_seconds_and_made_anew_without_a_restart() -> None:
    with Launcher(timeouts=QUICK) as it:
        it.wait_ready()
        pid = it.worker_pid
        worker_sockets(it)[0].unlink()
        it.wait_for(lambda: "not ready: its socket is gone" in it.lines(), 4)
        it.wait_for(lambda: "its socket is there again" in it.lines(), 4)
        it.wait_ready()
        assert complete(it) == 200
        assert (it.worker_pid, it.restarts) == (pid, 0)
        assert open_to_others(it) == []
        assert it.stop() == 0
        it.assert_nothing_left()


def test_a_socket_that_cannot_be_made_anew_costs_a_restart() -> None:
    with Launcher(timeouts=QUICK) as it:
        it.wait_ready()
        worker_sockets(it)[0].unlink()
        (it.run_dir / "w" / "1" / "http.sock").mkdir()
        it.wait_for(lambda: it.restarts == 1, 15)
        it.wait_ready()
        assert complete(it) == 200
        assert "is gone and stays away" in it.lines()
        assert it.stop() == 0


def test_a_deleted_run_directory_is_made_again_closed_to_others_and_locked() -> None:
    with Launcher(timeouts=QUICK) as it:
        it.wait_ready()
        assert it.port
        shutil.rmtree(it.run_dir)
        it.wait_for(lambda: it.probe("/health")[0] == 200 and worker_sockets(it), 10)
        it.wait_for(lambda: complete(it) == 200, 5)
        assert "was deleted by somebody; made again" in it.lines()
        assert it.restarts == 0
        os.kill(it.worker_pid, signal.SIGKILL)
        it.wait_for(lambda: it.restarts == 1, 5)
        it.wait_ready()
        assert complete(it) == 200
        assert open_to_others(it) == []
        second = it.command("serve", limit_s=20)
        assert second.returncode == 75
        assert f"in use by the ichat with pid {it.process.pid}" in second.stderr
        assert it.stop() == 0
        it.assert_nothing_left()


def test_a_run_directory_that_another_takes_meanwhile_is_told() -> None:
    with Launcher(timeouts=QUICK) as it:
        it.wait_ready()
        assert it.port
        taken = (
            "import fcntl,os,shutil,sys,time; p=sys.argv[1]; shutil.rmtree(p); os.mkdir(p,0o700);"
            "f=os.open(p+'/lock',os.O_RDWR|os.O_CREAT,0o600); fcntl.flock(f,fcntl.LOCK_EX);"
            "os.write(f,str(os.getpid()).encode()); print(flush=True); time.sleep(60)"
        )
        with subprocess.Popen([sys.executable, "-c", taken, str(it.run_dir)], stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            other.stdout.readline()
            it.wait_for(lambda: f"in use by the ichat with pid {other.pid}" in it.lines(), 5)
            other.kill()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_descriptors_at_the_start_cost_nothing(closed: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    command = ("/bin/sh", "-c", f'exec "$0" -m ichat "$@" {closed}', sys.executable)
    with Launcher(command=command, server={"port": port}, timeouts=QUICK) as it:  # perhaps without a log
        it.wait_ready()
        assert ask(port, "POST", "/v1/completions", BODY, {"Content-Type": "application/json"})[0] == 200
        assert it.stop() == 0
        it.assert_nothing_left()
