"""The launcher from its first instant to its last, as a process, with the real front and the fake engine."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.launcher_process import ICHAT, ROOT, SHM_BYTES, Launcher, command_line, shared_memory, zombies_of

QUICK = {"linger_s": 0, "drain_s": 5}


def calmest(measure_s: Callable[[], float]) -> float:
    """The shortest of three: other work on the machine can only add to a time."""
    return min(measure_s() for _ in range(3))


def test_the_port_listens_within_half_a_second() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def listens_after_s() -> float:
        with Launcher(server={"port": port}, timeouts=QUICK) as it:
            it.wait_for(lambda: can_connect(port), 5)
            return time.monotonic() - it.began

    assert calmest(listens_after_s) < 0.5


def can_connect(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def test_the_front_answers_while_the_worker_loads_and_readiness_comes_with_it() -> None:
    with Launcher(engine_args={"load_s": 1.0}, timeouts=QUICK) as it:
        assert it.get("/livez")[0] == 200
        assert it.get("/readyz")[0] == 503
        assert it.probe("/health")[0] == 503
        it.wait_for(lambda: "loading demo: weights" in it.health(), 5)
        it.wait_ready()
        it.wait_for(lambda: it.get("/readyz")[0] == 200, 1)
        assert it.health() == "ready: demo"
        assert it.stop() == 0
        it.assert_nothing_left()
        assert "Talk to it: curl http://127.0.0.1:" in it.lines()
        assert f"its state: ICHAT_RUN_DIR={it.run_dir} ./entrypoint status" in it.lines()


def test_ready_is_never_red_or_green_at_the_wrong_time_while_it_stops() -> None:
    with Launcher(timeouts={"linger_s": 0.5, "drain_s": 5}) as it:
        it.wait_ready()
        it.process.send_signal(signal.SIGTERM)
        stopped = time.monotonic()
        it.wait_for(lambda: it.probe("/health")[0] != 200, 0.1)
        it.wait_for(lambda: it.get("/readyz")[0] != 200, 0.1)
        assert it.get("/v1/models")[0] == 200, "still serving while routers look away"
        while it.process.poll() is None:
            assert it.probe("/health")[0] != 200
            time.sleep(0.005)
        assert 0.5 <= time.monotonic() - stopped < 3
        assert it.process.returncode == 0


def test_without_a_router_an_idle_stop_takes_no_time_at_all() -> None:
    with Launcher() as it:
        it.wait_ready()
        began = time.monotonic()
        assert it.stop() == 0
        assert time.monotonic() - began < 2
        it.assert_nothing_left()


def test_in_kubernetes_a_stop_lingers_by_default() -> None:
    with Launcher(env={"KUBERNETES_SERVICE_HOST": "10.0.0.1"}) as it:
        it.wait_ready()
        began = time.monotonic()
        assert it.stop() == 0
        assert time.monotonic() - began >= 5


@pytest.mark.parametrize(
    ("host", "env", "is_told"),
    [("0.0.0.0", {}, True), ("127.0.0.1", {}, False), ("0.0.0.0", {"ICHAT_API_KEY": "k"}, False)],
)
def test_an_open_port_without_a_key_is_told_once(host: str, env: dict[str, str], is_told: bool) -> None:
    with Launcher(server={"host": host}, env=env) as it:
        it.wait_for(lambda: it.probe("/health")[0] == 200, 5)
        told = [line for line in it.lines().splitlines() if "no API key is set" in line]
        assert len(told) == is_told
        assert all(f"whoever reaches port {it.port} can use the models. Set ICHAT_API_KEY" in line for line in told)


def test_a_first_start_that_compiles_says_so_with_a_count_and_seconds() -> None:
    with Launcher(engine_args={"compilers": 3, "load_s": 5}) as it:
        it.wait_for(lambda: "loading demo: compiling kernels, 2 done" in it.health(), 10)
        it.wait_for(lambda: re.search(r"compiling kernels, [23] done, [1-9]", it.health()), 5)
        assert it.get("/readyz")[0] == 503
        assert "loading demo: compiling kernels, " in it.get("/readyz")[1]
        it.wait_for(lambda: "loading demo: weights" in it.health(), 10)
        it.wait_ready()


def test_an_interrupt_does_not_linger() -> None:
    with Launcher(timeouts={"linger_s": 30, "drain_s": 60}) as it:
        it.wait_ready()
        began = time.monotonic()
        assert it.stop(signal.SIGINT) == 0
        assert time.monotonic() - began < 2
        it.assert_nothing_left()


@pytest.mark.parametrize("seed", range(8))
def test_sigterm_at_any_instant_of_the_start_is_obeyed_within_three_seconds(seed: int) -> None:
    with Launcher(timeouts=QUICK, engine_args={"shm_bytes": SHM_BYTES}) as it:
        it.wait_catching_sigterm()
        time.sleep(random.Random(seed).uniform(0, 0.8))
        began = time.monotonic()
        assert it.stop() == 0, it.lines()
        assert time.monotonic() - began < 3
        it.assert_nothing_left()


def test_sigterm_while_the_load_hangs_is_obeyed_within_three_seconds() -> None:
    with Launcher(engine_args={"hang_in": "weights"}) as it:
        it.wait_for(lambda: "weights" in it.health(), 5)
        os.kill(it.worker_pid, signal.SIGSTOP)
        began = time.monotonic()
        assert it.stop() == 0
        assert time.monotonic() - began < 3
        it.assert_nothing_left()


def test_a_busy_port_ends_it_with_75_within_a_second_and_names_who_has_it() -> None:
    def refused_after_s() -> float:
        with socket.create_server(("127.0.0.1", 0)) as holder, Launcher(server={"port": holder.getsockname()[1]}) as it:
            assert it.wait(5) == 75
            took_s = time.monotonic() - it.began
            last = it.lines().splitlines()[-1]
            assert last.startswith("ichat: error[E-PORT-BUSY] server.port: ")
            assert f"by pid {os.getpid()} (" in last
            it.assert_nothing_left()
            return took_s

    assert calmest(refused_after_s) < 1.0


def test_a_second_ichat_in_one_run_directory_is_refused_and_the_first_unharmed() -> None:
    with Launcher(timeouts=QUICK) as first:
        first.wait_ready()
        env = {"ICHAT_RUN_DIR": str(first.run_dir)}
        with Launcher(env=env) as second:
            assert second.wait(3) == 75
            assert f"in use by the ichat with pid {first.process.pid}" in second.lines()
        assert first.health() == "ready: demo"
        assert first.stop() == 0


def test_a_launcher_that_is_killed_takes_its_children_along_and_the_next_one_cleans_up() -> None:
    with Launcher(engine_args={"shm_bytes": SHM_BYTES}, timeouts=QUICK) as it:
        it.wait_ready()
        residue = it.run_dir / "residue.json"
        it.wait_for(lambda: json.loads(residue.read_text())["shm"], 3)
        segments = {Path(path).name for path in json.loads(residue.read_text())["shm"]}
        assert segments <= shared_memory()
        own, old = [it.front_pid, it.worker_pid], set(it.survivors())
        it.process.kill()
        it.process.wait()
        it.wait_for(lambda: not set(own) & set(it.survivors()), 1)
        assert it.run_dir.exists()
        it.start()
        it.wait_ready()
        assert not segments & shared_memory(), "the predecessor's shared memory is gone"
        assert not old & set(it.survivors()), "the predecessor's engine is gone"
        assert len(it.engine_pids()) == 1
        assert it.stop() == 0
        it.assert_nothing_left()


def test_killed_and_started_again_on_the_same_port_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Launcher(server={"port": port}, timeouts=QUICK) as it:
        for _ in range(3):
            it.wait_ready()
            it.process.kill()
            it.process.wait()
            it.start()
        it.wait_ready()
        assert it.stop() == 0


@pytest.mark.parametrize("code", [64, 65, 66, 71, 73, 77, 78])
def test_a_permanent_failure_ends_it_with_the_workers_code_and_line(code: int) -> None:
    with Launcher(engine_args={"fail_in": "weights", "fail_with": code}) as it:
        assert it.wait() == code
        assert (
            it.lines().splitlines()[-1]
            == "ichat: error[E-FAKE] demo/0: the script fails in weights. See the lines above for the cause."
        )
        assert it.lines().count("demo/0: started") == 1
        it.assert_nothing_left()


def test_a_start_that_never_ends_is_69_and_names_its_phase() -> None:
    with Launcher(engine_args={"hang_in": "warm-up"}, timeouts={"start_s": 2}) as it:
        assert it.wait() == 69
        assert "demo/0: not ready within 2 s, stuck in: warm-up, " in it.lines().splitlines()[-1]
        it.assert_nothing_left()


def test_a_crash_loop_ends_with_69_when_its_budget_is_spent() -> None:
    restarts = {"max_restarts": 3}
    with Launcher(
        engine_args={"die_after_s": 0.3}, timeouts={"restart_backoff_s": 0.1, **QUICK}, restarts=restarts
    ) as it:
        assert it.wait(30) == 69
        assert it.lines().count("demo/0: started") == 4
        last = it.lines().splitlines()[-1]
        assert "after 3 restarts within 600 s" in last
        assert "FAKE::Engine/0" in last
        it.assert_nothing_left()


def test_without_restarts_the_container_ends_with_its_engine() -> None:
    with Launcher(restarts={"enabled": False}) as it:
        it.wait_ready()
        os.kill(it.engine_pids()[0], signal.SIGKILL)
        killed = time.monotonic()
        assert it.wait(5) == 69
        assert time.monotonic() - killed < 3
        assert "was killed by SIGKILL" in it.lines().splitlines()[-1]
        it.assert_nothing_left()


def test_the_third_signal_ends_it_within_a_fifth_of_a_second() -> None:
    def gone_after_s() -> float:
        with Launcher(timeouts={"linger_s": 20, "drain_s": 60}) as it:
            it.wait_ready()
            for _ in range(2):
                it.process.send_signal(signal.SIGTERM)
                time.sleep(0.02)
            began = time.monotonic()
            assert it.stop() == 74
            took_s = time.monotonic() - began
            it.assert_nothing_left()
            return took_s

    assert calmest(gone_after_s) < 0.2


def test_a_second_signal_ends_the_lingering() -> None:
    with Launcher(timeouts={"linger_s": 20, "drain_s": 60}) as it:
        it.wait_ready()
        it.process.send_signal(signal.SIGTERM)
        it.wait_for(lambda: "draining: 0 requests in flight" in it.health(), 1)
        began = time.monotonic()
        assert it.stop() == 74
        assert time.monotonic() - began < 2
        it.assert_nothing_left()


def test_no_process_that_was_there_before_it_is_touched() -> None:
    """`scripts/run` leaves a shell waiting beside the launcher that it becomes."""
    with Launcher(timeouts=QUICK, command=("sh", "-c", 'sleep 60 & exec "$0" "$@"', *ICHAT)) as it:
        it.wait_ready()
        sleeper = next(pid for pid in it.survivors() if command_line(pid).startswith("sleep 60"))
        os.kill(it.worker_pid, signal.SIGKILL)
        it.wait_for(lambda: it.restarts == 1, 5)
        it.wait_ready()
        assert it.stop() == 0
        assert it.survivors() == [sleeper]
        os.kill(sleeper, signal.SIGKILL)
        it.assert_nothing_left()


def test_a_thousand_killed_health_checks_leave_no_zombie() -> None:
    with Launcher(timeouts=QUICK) as it:
        it.wait_ready()
        env = {"PATH": os.environ["PATH"], "ICHAT_RUN_DIR": str(it.run_dir)}
        for batch in range(50):
            checks = [
                subprocess.Popen(
                    [ROOT / "entrypoint", "health"], env=env, stdout=subprocess.DEVNULL, start_new_session=True
                )
                for _ in range(20)
            ]
            time.sleep(0.0005 * (batch % 20))
            for check in checks:
                os.killpg(check.pid, signal.SIGKILL)
            for check in checks:
                check.wait()
        assert it.health() == "ready: demo"
        assert zombies_of(it.process.pid) == []
        assert len(list(Path(f"/proc/{it.process.pid}/fd").iterdir())) < 40
        assert it.stop() == 0


def test_orphans_that_come_to_it_are_reaped() -> None:
    with Launcher(timeouts=QUICK) as it:
        it.wait_ready()
        worker = it.worker_pid
        os.kill(worker, signal.SIGKILL)  # its engine process comes to the launcher, which kills and reaps it
        it.wait_for(lambda: it.restarts == 1, 5)
        it.wait_ready()
        assert zombies_of(it.process.pid) == []
        assert it.stop() == 0
