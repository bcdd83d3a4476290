"""Starts the deployment once, waits until it is ready, and hands the tests a client for it."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import openai
import pytest

HERE = Path(__file__).parent
#: The load of a large model takes long; a model from the hub is downloaded first.
START_LIMIT_S = float(os.environ.get("START_LIMIT_S", "900"))
KEY = os.environ.get("ICHAT_API_KEY") or "a-key-for-the-tests"


class Deployment:
    """The service `ichat` of docker-compose.yml, while it runs."""

    def __init__(self, compose: list[str], host: str) -> None:
        self._compose, self._host = compose, host
        self.container = self.compose("ps", "--all", "-q", "ichat").strip()
        self.url = ""

    def compose(self, *argv: str) -> str:
        return subprocess.run([*self._compose, *argv], check=True, capture_output=True, text=True).stdout

    def inspect(self, field: str) -> str:
        """A field of `docker inspect`, as its templates write it: .State.ExitCode."""
        argv = ["docker", "inspect", "--format", f"{{{{{field}}}}}", self.container]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()

    def status_of(self, path: str) -> int:
        """The HTTP status of a GET, 0 when nobody answers."""
        try:
            with urllib.request.urlopen(f"{self.url}{path}", timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def wait_until_ready(self) -> None:
        """Fails with the last lines of the log when it ends, or takes too long."""
        end = time.monotonic() + START_LIMIT_S
        while not self.is_ready():
            ended = self.inspect(".State.Status") == "exited"
            if ended or time.monotonic() > end:
                code, log = self.inspect(".State.ExitCode"), self.compose("logs", "--tail", "50")
                what = f"ended with {code}" if ended else f"not ready after {START_LIMIT_S} s"
                pytest.fail(f"{what}; the log says:\n{log}", pytrace=False)
            time.sleep(0.5)

    def is_ready(self) -> bool:
        argv = ["docker", "port", self.container, "8000"]
        published = subprocess.run(argv, check=False, capture_output=True, text=True).stdout.splitlines()
        if not published:  # not yet, or not any more
            return False
        self.url = f"http://{self._host}:{published[0].rpartition(':')[2]}"
        return self.status_of("/readyz") == 200


# ---- what pytest-docker asks for ------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def docker_compose_command() -> str:
    """Compose v2 where Docker has it, else docker-compose."""
    has_plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
    return "docker compose" if has_plugin else "docker-compose"


@pytest.fixture(scope="session")
def docker_compose_file() -> list[str]:
    return [str(HERE / "docker-compose.yml"), *([str(HERE / "gpus.yml")] if os.environ.get("GPUS") else [])]


@pytest.fixture(scope="session")
def docker_setup() -> list[str]:
    return ["up --detach"]


# ---- what the tests ask for -----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def deployment(docker_services, docker_ip, docker_compose_command, docker_compose_file, docker_compose_project_name):
    """``docker_services`` of pytest-docker has started it, and takes it down in the end."""
    files = [word for path in docker_compose_file for word in ("-f", path)]
    compose = [*shlex.split(docker_compose_command), *files, "-p", docker_compose_project_name]
    running = Deployment(compose, docker_ip)
    running.wait_until_ready()
    return running


@pytest.fixture(scope="session")
def client(deployment: Deployment) -> openai.OpenAI:
    """Without retries: an error that goes away by itself is an error."""
    return openai.OpenAI(base_url=f"{deployment.url}/v1", api_key=KEY, max_retries=0, timeout=120)


@pytest.fixture(scope="session")
def model(client: openai.OpenAI) -> str:
    """The name that clients ask for."""
    return os.environ.get("MODEL") or client.models.list().data[0].id
