"""What cleaners of /tmp and busy hands delete under a running ichat, and what it was started without."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults.test_launcher_faults import QUICK
from tests.launcher_process import ROOT, Launcher, ask

DEMO = ROOT / "models" / "demo"

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


def test_descriptors_that_are_short_for_a_while_at_a_restart_are_waited_for() -> None:
    with Launcher(timeouts=QUICK) as it:
        it.wait_ready()
        launcher, worker, front = it.process.pid, it.worker_pid, it.front_pid
        before = resource.prlimit(launcher, resource.RLIMIT_NOFILE)
        resource.prlimit(launcher, resource.RLIMIT_NOFILE, (3, before[1]))
        os.kill(worker, signal.SIGKILL)
        os.kill(front, signal.SIGKILL)
        it.wait_for(lambda: it.lines().count("Waiting until the system lets us") == 2, 10)
        time.sleep(1)
        assert it.process.poll() is None
        resource.prlimit(launcher, resource.RLIMIT_NOFILE, before)
        it.wait_for(lambda: it.probe("/health")[0] == 200, 15)
        assert complete(it) == 200
        assert it.lines().count("Waiting until the system lets us") == 2
        assert it.stop() == 0
        it.assert_nothing_left()


def test_the_last_line_of_the_log_says_the_code_that_follows() -> None:
    with Launcher(engine_args={"fail_in": "weights", "fail_with": 65}, timeouts=QUICK) as it:
        assert it.wait() == 65
        assert "ichat: stopped code=65" in it.lines()
        assert "stopped code=0" not in it.lines()


def test_a_model_that_has_gone_is_told_at_its_restart_quickly(tmp_path: Path) -> None:
    shutil.copytree(DEMO, tmp_path / "model")
    one = {"model_path": str(tmp_path / "model")}
    with Launcher(models={"demo": one, "other": {}}, timeouts=QUICK) as it:
        it.wait_ready()
        shutil.rmtree(tmp_path / "model")
        os.kill(it.pids()["demo/0"], signal.SIGKILL)
        it.wait_for(lambda: "is not there any more" in it.lines(), 5)
        assert f"models.demo.model_path: {tmp_path}/model: is not there any more" in it.lines()
        assert it.pids().keys() == {"other/0"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
def test_environments_that_one_may_not_enter_are_told_as_that(tmp_path: Path) -> None:
    shutil.copy(ROOT / "entrypoint", tmp_path / "entrypoint")
    (tmp_path / ".venvs" / "ichat" / "bin").mkdir(parents=True)
    for directory in tmp_path.parents:
        if directory.name.startswith("pytest-"):
            directory.chmod(0o755)
    tmp_path.chmod(0o755)
    (tmp_path / ".venvs").chmod(0o700)
    done = subprocess.run(
        [str(tmp_path / "entrypoint"), "serve"], user=65534, capture_output=True, text=True, check=False
    )
    assert done.returncode == 77
    assert "error[E-PERMISSION]" in done.stderr
    assert "user 65534 may not enter it" in done.stderr


def test_a_limit_of_the_size_of_files_is_told_at_the_start() -> None:
    command = ("/bin/sh", "-c", 'ulimit -f 1024; exec "$0" -m ichat "$@"', sys.executable)
    with Launcher(command=command, timeouts=QUICK) as it:
        assert it.wait() == 71
        assert "E-OS-FILE-SIZE" in it.lines()
