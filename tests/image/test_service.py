"""The container as its user runs it, with the real engines and the demo model."""

from __future__ import annotations

import json
import secrets
import shutil
import time
from pathlib import Path

import pytest

from tests.image.containers import HARDENED, Container
from tests.image.engine import ROOT
from tests.real_engine import ENGINES, Stream

WHO = "Who are you?"


@pytest.mark.parametrize("backend", ENGINES)
def test_healthy_means_that_a_token_can_come_out(backend: str) -> None:
    env = {} if backend == "vllm" else {"ICHAT_BACKEND": backend}
    env["ICHAT_TIMEOUTS__HOLD_S"] = "0"  # a request is refused at once, and does not wait
    with Container("--health-interval", "1s", **env) as it:  # an engine can be ready before Docker's first probe
        it.wait_for(lambda: it.ask("GET", "/livez")[0] == 200, 10)
        status, refused = it.ask("POST", "/v1/completions", {"model": "demo", "prompt": "Hi"})
        assert (status, json.loads(refused)["error"]["code"]) == (503, "model_loading")
        assert it.health == "starting"
        it.wait_healthy()
        assert "ichat" in it.chat(WHO), "the first request after Docker said so"
        last = it.state["Health"]["Log"][-1]
        assert (last["ExitCode"], last["Output"]) == (0, "ready: demo\n")
        assert any("loading demo: " in probe["Output"] for probe in it.state["Health"]["Log"]), "the phase, in words"
        assert it.exec("ichat", "status").splitlines()[0].startswith("ready")
        assert it.stop()[0] == 0


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model of one's own: the demo model under another name."""
    own = tmp_path / "own"
    shutil.copytree(ROOT / "models" / "demo", own, ignore=shutil.ignore_patterns("*.py", "questions"))
    for path in (tmp_path, own, *own.iterdir()):
        path.chmod(0o755)
    return own


def test_environment_port_and_key_do_not_hide_its_health(model: Path, tmp_path: Path) -> None:
    key = secrets.token_hex(16)
    (tmp_path / "key").write_text(key)
    (tmp_path / "key").chmod(0o644)
    mounts = ("--volume", f"{model}:/models/own:ro", "--volume", f"{tmp_path}/key:/run/secrets/key:ro")
    env = {
        "ICHAT_BACKEND": "sglang", "ICHAT_MODEL_PATH": "/models/own", "ICHAT_PORT": "9000", "ICHAT_HOST": "0.0.0.0",
        "ICHAT_API_KEY_FILE": "/run/secrets/key", "ICHAT_CONTEXT_LENGTH": "1024",
    }  # fmt: skip
    with Container(*mounts, port=9000, **env) as it:
        it.wait_healthy()
        assert it.ask("GET", "/v1/models")[0] == 401
        bearer = {"Authorization": f"Bearer {key}"}
        assert it.ask("GET", "/v1/models", **bearer)[0] == 200
        assert "ichat" in it.chat(WHO, model="own", **bearer)
        shown = json.dumps(it.inspect()) + it.logs() + "".join(it.processes())
        assert key not in shown, "a secret in docker inspect, in the logs or in a command line"


def test_a_mounted_file_configures_it_and_its_health_is_found(model: Path, tmp_path: Path) -> None:
    (tmp_path / "configs.yaml").write_text(
        "server: {port: 9100, host: '::', log_format: json}\n"
        "models:\n  mine: {backend: vllm, model_path: /models/own, context_length: 512, engine_args: {enforce-eager: true}}\n"
    )
    (tmp_path / "configs.yaml").chmod(0o644)
    mounts = ("--volume", f"{model}:/models/own:ro", "--volume", f"{tmp_path}/configs.yaml:/etc/ichat/configs.yaml:ro")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    # A user of no group that the image knows: nothing is writable but what is mounted so.
    with Container(*mounts, "--volume", f"{tmp_path}/cache:/cache", "--user", "4321:4321", port=9100) as it:
        it.wait_healthy()
        assert "ichat" in it.chat(WHO, model="mine")
        assert it.words() == "ready: mine"


@pytest.mark.parametrize("backend", ENGINES)
def test_any_uid_without_rights_without_network_on_a_read_only_root(backend: str) -> None:
    with Container(*HARDENED, ICHAT_BACKEND=backend) as it:
        it.wait_healthy()
        body = json.dumps({"model": "demo", "prompt": WHO, "max_tokens": 8, "temperature": 0})
        argv = ("curl", "-sS", "-H", "Content-Type: application/json", "-d", body)
        answer = json.loads(it.exec(*argv, "http://127.0.0.1:8000/v1/completions"))
        assert answer["usage"]["completion_tokens"] > 0
        assert it.exec("id", "-u") == "123456"
        assert it.stop()[0] == 0


@pytest.mark.parametrize("backend", ENGINES)
def test_nothing_can_be_reached_from_outside_but_the_public_port(backend: str) -> None:
    """Engines open sockets for their own processes, without authentication: on the loopback interface only."""
    with Container("--shm-size", "1g", ICHAT_BACKEND=backend) as it:
        it.wait_ready()
        lines = it.exec("sh", "-c", "cat /proc/net/tcp /proc/net/tcp6").splitlines()
        local = [line.split()[1] for line in lines if len(line.split()) > 3 and line.split()[3] == "0A"]
        outside = {address.rpartition(":")[2] for address in local if not _is_loopback(address.rpartition(":")[0])}
        assert outside == {f"{8000:04X}"}
        lines = it.exec("sh", "-c", "cat /proc/net/udp /proc/net/udp6").splitlines()
        udp = [line.split()[1] for line in lines if "local_address" not in line]
        assert [address for address in udp if not _is_loopback(address.rpartition(":")[0])] == []


def _is_loopback(address: str) -> bool:
    """As the kernel writes it: little-endian words."""
    return address.endswith("7F") if len(address) == 8 else address == "0" * 24 + "01000000"


@pytest.mark.parametrize("backend", ENGINES)
def test_a_stop_under_load_loses_nothing(backend: str) -> None:
    with Container(ICHAT_BACKEND=backend, ICHAT_LAME_DUCK="1") as it:
        it.wait_ready()
        streams = [Stream(it, tokens=400) for _ in range(4)]
        for stream in streams:
            assert stream.began.wait(20)
        code, took_s = it.stop()
        for stream in streams:
            stream.join(10)
        assert (code, [stream.is_complete for stream in streams]) == (0, [True] * 4)
        assert took_s < 40


@pytest.mark.parametrize("backend", ENGINES)
def test_a_plain_docker_stop_of_an_idle_container_ends_with_0_within_five_seconds(backend: str) -> None:
    with Container(ICHAT_BACKEND=backend) as it:
        it.wait_ready()
        code, took_s = it.stop(grace_s=10)
        assert code == 0
        assert took_s < 5


@pytest.mark.parametrize("backend", ENGINES)
@pytest.mark.parametrize("after_s", [0.5, 2.5])
def test_a_stop_while_it_loads_is_quick_and_no_failure(backend: str, after_s: float) -> None:
    with Container(ICHAT_BACKEND=backend) as it:
        it.wait_for(lambda: it.words().startswith("loading"), 10)
        time.sleep(after_s)
        code, took_s = it.stop()
        assert code == 0
        assert took_s < 4
