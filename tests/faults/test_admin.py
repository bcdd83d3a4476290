"""The admin port of a whole ichat on the fake engine: what is commanded is done, and clients see it as they should."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.launcher_process import Launcher, ask

TOKEN = "a token only for this test"
MODEL = "/admin/models/demo"


class Admin(Launcher):
    """``Launcher`` with an admin port."""

    def __init__(
        self, *, instances: int = 1, hold_s: float = 30, model_path: str = "fake/model", **engine_args: Any
    ) -> None:
        super().__init__(
            engine_args=engine_args,
            admin={"port": 0},
            env={"ICHAT_ADMIN_TOKEN": TOKEN},
            models={"demo": {"backend": "fake", "model_path": model_path, "instances": instances, "hold_s": hold_s,
                             "engine_args": engine_args}},
            timeouts={"linger_s": 0, "probe_every_s": 0.2, "probe_suspect_s": 0.5, "probe_limit_s": 1},
        )  # fmt: skip

    @property
    def admin_port(self) -> int:
        return int(self.wait_for(lambda: re.search(r"admin port 127.0.0.1:(\d+)", self.lines()), 5)[1])

    def wait_all_ready(self) -> Admin:
        """Every instance, not only one of each model."""
        self.wait_for(
            lambda: all(one["state"] == "ready" for one in self.status().get("instances", [{"state": ""}])), 15
        )
        return self

    def control(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        text = None
        if body is not None:
            headers["Content-Type"], text = "application/json", json.dumps(body)
        status, answer = ask(self.admin_port, method, path, text, headers, timeout_s=30)
        return status, json.loads(answer)

    def done(self, path: str, body: Any = None) -> dict[str, Any]:
        status, answer = self.control("POST", path, body)
        assert status == 200, answer
        return answer

    def complete(self, model: str = "demo") -> tuple[int, dict[str, Any]]:
        body = json.dumps({"model": model, "prompt": "Hi", "max_tokens": 2})
        status, answer = ask(
            self.port, "POST", "/v1/completions", body, {"Content-Type": "application/json"}, timeout_s=60
        )
        return status, json.loads(answer)


class Asking(threading.Thread):
    """A request that may have to wait."""

    def __init__(self, launcher: Admin) -> None:
        super().__init__(daemon=True)
        self._launcher, self.outcome = launcher, (0, {"no": "answer yet"})
        self.start()

    def run(self) -> None:
        self.outcome = self._launcher.complete()


@pytest.fixture
def launcher() -> Iterator[Admin]:
    with Admin() as running:
        yield running.wait_ready()  # type: ignore[misc]
        assert running.stop() == 0
        running.assert_nothing_left()


def test_without_a_token_there_is_no_port() -> None:
    with Launcher() as running:
        running.wait_ready()
        assert "admin port 127" not in running.lines()
        assert running.stop() == 0


def test_a_busy_admin_port_ends_the_start_at_once_and_names_its_holder() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with Launcher(admin={"port": port}, env={"ICHAT_ADMIN_TOKEN": TOKEN}) as running:
            assert running.wait(5) == 75
            assert time.monotonic() - running.began < 3
            assert f"admin.port: {port} is in use by pid {os.getpid()}" in running.lines()


def test_the_token_may_come_from_a_file_and_is_told_nowhere(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    with Launcher(admin={"port": 0}, env={"ICHAT_ADMIN_TOKEN_FILE": str(tmp_path / "token")}) as running:
        running.wait_ready()
        port = int(running.wait_for(lambda: re.search(r"admin port 127.0.0.1:(\d+)", running.lines()), 5)[1])
        status, body = ask(port, "GET", "/admin/config", headers={"Authorization": f"Bearer {TOKEN}"})
        assert status == 200
        assert TOKEN not in body
        assert ask(port, "GET", "/admin/config")[0] == 401
        assert running.stop() == 0
        assert TOKEN not in running.lines()


def test_it_answers_what_it_lists(launcher: Admin) -> None:
    paths = launcher.control("GET", "/admin")[1]["paths"]
    for line in paths:
        method, path = line.split()
        if method == "GET":
            assert launcher.control("GET", path)[0] == 200
    assert launcher.control("GET", "/admin/status")[1]["ready"] is True
    assert launcher.control("GET", "/admin/config")[1]["generation"] == 1


def test_no_request_reaches_a_sleeping_engine_and_it_serves_once_it_is_awake(launcher: Admin) -> None:
    launcher.done(f"{MODEL}/sleep", {"level": 2})
    assert launcher.get("/readyz")[0] == 503
    assert "resting demo: asleep (level 2)" in launcher.health()
    asking = Asking(launcher)
    time.sleep(2.5)  # more than an engine may take to answer a probe
    # It waits in the front, or was told to come back.
    assert asking.is_alive() or asking.outcome[0] == 503
    assert launcher.restarts == 0
    launcher.done(f"{MODEL}/wake_up")
    asking.join(5)
    assert asking.outcome[0] in (200, 503)
    assert launcher.get("/readyz")[0] == 200
    assert launcher.complete()[0] == 200


def test_a_pause_of_one_instance_sends_everything_to_the_other() -> None:
    with Admin(instances=2) as running:
        running.wait_all_ready()
        running.done(f"{MODEL}/pause", {"instance": "demo/0"})
        assert running.get("/readyz")[0] == 200
        assert {running.complete()[0] for _ in range(20)} == {200}
        running.done(f"{MODEL}/resume")
        assert running.stop() == 0


def test_one_instance_that_cannot_makes_the_answer_its_own() -> None:
    with Admin(instances=2, not_supported=["flush_cache"]) as running:
        running.wait_all_ready()
        status, answer = running.control("POST", f"{MODEL}/flush_cache")
        assert status == 501
        assert [one["status"] for one in answer["instances"]] == [501, 501]
        assert answer["error"]["message"].startswith("2 of 2 instances did not. demo/0: flush_cache: the script says")
        assert running.complete()[0] == 200
        assert running.stop() == 0


def test_an_adapter_is_asked_for_through_the_front(launcher: Admin, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.bin").write_bytes(b"anything")
    assert launcher.complete("demo:pirate")[0] == 404
    answer = launcher.done(f"{MODEL}/load_lora", {"name": "pirate", "path": str(tmp_path)})
    assert answer["instances"][0]["model"] == "demo:pirate"
    launcher.wait_for(lambda: launcher.complete("demo:pirate")[0] == 200, 2)
    launcher.done(f"{MODEL}/unload_lora", {"name": "pirate"})
    launcher.wait_for(lambda: launcher.complete("demo:pirate")[0] == 404, 2)


def test_a_worker_that_dies_over_a_command_is_told_at_once_and_started_again() -> None:
    with Admin(command_s=20) as running:
        running.wait_ready()
        outcome: list[tuple[int, dict[str, Any]]] = []
        asking = threading.Thread(target=lambda: outcome.append(running.control("POST", f"{MODEL}/flush_cache")))
        asking.start()
        time.sleep(0.5)
        assert running.control("POST", f"{MODEL}/pause")[0] == 409
        os.kill(running.worker_pid, signal.SIGKILL)
        asking.join(2)
        assert not asking.is_alive()
        assert outcome[0][0] == 502
        assert outcome[0][1]["error"]["code"] == "worker_lost"
        running.wait_for(lambda: running.restarts == 1 and running.complete()[0] == 200, 10)
        assert running.stop() == 0


def test_an_engine_that_fails_over_new_weights_is_started_again_with_its_own() -> None:
    demo = Path(__file__).resolve().parents[2] / "models" / "demo"
    with Admin(model_path=str(demo), fails_at=["update_weights"]) as running:
        running.wait_ready()
        status, answer = running.control("POST", f"{MODEL}/update_weights", {"path": str(demo)})
        assert status == 502
        assert "started again as it was configured" in answer["error"]["message"]
        running.wait_for(lambda: running.restarts == 1 and running.complete()[0] == 200, 10)
        assert running.stop() == 0


def test_a_reload_without_a_change_touches_nothing(launcher: Admin) -> None:
    before = launcher.worker_pid
    assert launcher.done("/admin/reload")["failed"] == {}
    assert launcher.worker_pid == before


def test_a_model_that_nobody_knows_is_told_with_those_there_are(launcher: Admin) -> None:
    for action in ("restart", "drain", "undrain", "sleep"):
        status, answer = launcher.control("POST", f"/admin/models/lama/{action}")
        assert (status, answer["error"]["code"]) == (404, "model_not_found")
        assert "There are: demo." in answer["error"]["message"]


def test_an_invalid_file_is_refused_with_its_place_and_changes_nothing(launcher: Admin) -> None:
    file = launcher.home / "configs.yaml"
    file.write_text(file.read_text() + "\nserverr: {}\n")
    status, answer = launcher.control("POST", "/admin/reload")
    assert status == 422
    assert "configs.yaml:" in answer["error"]["message"]
    assert "serverr" in answer["error"]["message"]
    assert launcher.control("GET", "/admin/config")[1]["error"]
    assert launcher.complete()[0] == 200


def test_the_log_level_changes_while_it_runs(launcher: Admin) -> None:
    assert launcher.control("GET", "/admin/log_level") == (200, {"level": "info"})
    assert launcher.done("/admin/log_level", {"level": "warning"}) == {"level": "warning"}
    assert launcher.done(f"{MODEL}/log_level", {"level": "error"})["instances"][0]["level"] == "error"


def test_the_launcher_answers_probes_while_the_admin_port_is_being_opened() -> None:
    """aiohttp is a quarter of a second of imports; the HEALTHCHECK must not feel it."""
    with Admin() as running:
        running.wait_for(lambda: running.probe("/health")[0], 5)
        slowest = 0.0
        while "admin port 127" not in running.lines():
            began = time.monotonic()
            assert running.probe("/health")[0] in (200, 503)
            slowest = max(slowest, time.monotonic() - began)
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", "import aiohttp.web"], check=True)
        import_s = time.monotonic() - began  # by a machine that is as busy now as then, more or less
        print(f"slowest probe: {slowest * 1000:.0f} ms, the import: {import_s * 1000:.0f} ms")
        assert slowest < max(0.5, 2 * import_s), "the loop must not be held up by more than the import"
        running.wait_ready()
        assert running.stop() == 0
