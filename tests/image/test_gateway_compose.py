"""deploy/gateway: two containers behind smg, one after the other made anew, and no request that fails."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from pytest_docker.plugin import Services, get_docker_services

from tests.image.containers import Container
from tests.image.engine import IMAGE, ROOT, docker
from tests.launcher_process import ask

FOLDER = ROOT / "deploy" / "gateway"
PROJECT = f"ichat-gateway-{os.getpid()}"
#: smg's own image cannot be pulled here: the same program, from the environment that the benchmarks have it in.
SMG = next((ROOT / ".venvs" / "peers" / "lib").glob("python3*/site-packages"), Path())
RUN_SMG = ["python3", "-c", "import sys; from smg.cli import main; sys.exit(main())", "launch"]
BODY = json.dumps({"model": "demo", "messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 8})
CLIENTS = 3


@pytest.fixture(scope="module")
def compose_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file as it is, but for the router's image, and for the models: those of the demo."""
    content = yaml.safe_load((FOLDER / "docker-compose.yml").read_text())
    router = content["services"]["router"]
    router |= {
        "image": IMAGE,
        "entrypoint": RUN_SMG,
        "volumes": [f"{SMG}:/peers:ro"],
        "environment": ["PYTHONPATH=/peers"],
    }
    router["healthcheck"] = {"disable": True}
    path = tmp_path_factory.mktemp("gateway") / "docker-compose.yml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def two(compose_file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    variables = {
        "GATEWAY_KEY": "a-key-for-this-test", "IMAGE": IMAGE, "PORT": "18080",
        "ICHAT_BACKEND": "sglang",  # two of vLLM on a CPU spin on the same core
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    compose = f"docker-compose --project-directory {FOLDER}"
    with get_docker_services(
        compose, str(compose_file), PROJECT, ["up --detach"], ["down --volumes --timeout 40"]
    ) as services:
        yield services


class Service(Container):
    """A service of this project, whichever container it is by now."""

    def __init__(self, name: str) -> None:
        super().__init__()
        wanted = (f"label=com.docker.compose.project={PROJECT}", f"label=com.docker.compose.service={name}")
        self.id = docker("ps", "--quiet", "--filter", wanted[0], "--filter", wanted[1])


class Asking:
    """Clients that ask the router without a pause."""

    def __init__(self, port: int) -> None:
        self._port, self._is_over = port, threading.Event()
        self.answers: list[tuple[int, str]] = []

    def once(self) -> tuple[int, str]:
        return ask(self._port, "POST", "/v1/chat/completions", BODY, {"Content-Type": "application/json"}, timeout_s=60)

    def _ask(self) -> None:
        while not self._is_over.is_set():
            self.answers.append(self.once())
            time.sleep(0.02)

    @contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._ask) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            for thread in threads:
                thread.join()


def test_both_are_made_anew_one_after_the_other_and_no_request_fails(two: Services, compose_file: Path) -> None:
    asking = Asking(two.port_for("router", 30000))
    old = {name: Service(name).wait_healthy(180) for name in ("ichat-a", "ichat-b")}
    old["ichat-a"].wait_for(lambda: asking.once()[0] == 200, 30)
    with asking.running():
        for name, before in old.items():
            argv = ["docker-compose", "--project-directory", FOLDER, "-f", compose_file, "-p", PROJECT]
            subprocess.run([*argv, "up", "--detach", "--no-deps", "--force-recreate", name], check=True)
            after = Service(name).wait_healthy(180)
            assert after.id != before.id
            served = len(asking.answers)
            after.wait_for(lambda since=served: len(asking.answers) > since + 20, 60)
    failed = [answer for answer in asking.answers if answer[0] != 200]
    assert not failed, (len(failed), len(asking.answers), failed[:3])
    assert len(asking.answers) > 100
    # Only the router is published.
    assert docker("port", Service("ichat-a").id) == ""
