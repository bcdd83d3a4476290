"""docker-compose.yml: valid for old and new, and its services as containers, less their GPUs."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pytest_docker.plugin import Services, get_docker_services

from tests.image.containers import Container
from tests.image.engine import IMAGE, ROOT, docker


@pytest.mark.parametrize("asked", ["config", "ps"])
def test_docker_compose_accepts_it_as_it_is(asked: str) -> None:
    """1.29, with everything that GPUs need; `ps` makes all services, `config` only prints them."""
    done = subprocess.run(["docker-compose", asked], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def without_gpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same file for a machine that has none: no reservation, the image for the CPU.

    Without limits, too: a daemon inside a sandbox may not raise them.
    """
    content = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    for service in content["services"].values():
        if "ichat" in service["image"]:
            service.pop("deploy", None)
            service.pop("ulimits", None)
            service["image"] = IMAGE
    path = tmp_path_factory.mktemp("compose") / "docker-compose.yml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def multi(without_gpus: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    monkeypatch.setenv("PORT", "18000")
    monkeypatch.setenv("SECOND_PORT", "18001")
    compose = f"docker-compose --project-directory {ROOT} --profile multi"
    with get_docker_services(
        compose, str(without_gpus), f"ichat-test-{os.getpid()}", ["up --detach"], ["down --volumes --timeout 40"]
    ) as services:
        yield services


class Composed(Container):
    """A service that compose has started."""

    def __init__(self, port: int) -> None:
        super().__init__()
        (self.id,) = docker("ps", "--quiet", "--filter", f"publish={port}").split()


def test_two_models_on_two_engines_each_in_a_service_of_its_own(multi: Services) -> None:
    on_vllm, on_sglang = multi.port_for("multi-vllm", 8000), multi.port_for("multi-sglang", 8000)
    services = {"on-vllm": Composed(on_vllm), "on-sglang": Composed(on_sglang)}
    for name, service in services.items():
        service.wait_healthy(180)
        listed = json.loads(service.ask("GET", "/v1/models")[1])["data"]
        assert [model["id"] for model in listed] == [name]
        assert "ichat" in service.chat("Who are you?", model=name)
    assert services["on-vllm"].chat("Who are you?", "on-vllm") == services["on-sglang"].chat(
        "Who are you?", "on-sglang"
    )
    started = {name: _started(service) for name, service in services.items()}
    assert started["on-sglang"] > started["on-vllm"], "one measures the GPU's memory after the other"


def _started(service: Container) -> str:
    state: dict[str, Any] = service.state
    return str(state["StartedAt"])
