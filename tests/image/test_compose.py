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
from tests.image.engine import BASE, IMAGE, ROOT, docker


def programs() -> list[str]:
    """1.29, and Compose v2 where Docker's client has the plugin."""
    has_plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
    return ["docker-compose", *(["docker compose"] if has_plugin else [])]


def compose(program: str, *argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [*program.split(), *argv]
    return subprocess.run(command, cwd=ROOT, env=os.environ | env, capture_output=True, text=True, check=False)


def service_of(program: str, name: str = "ichat", *options: str, **env: str) -> dict[str, Any]:
    """The service as this Compose understands it."""
    done = compose(program, *options, "config", **env)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = yaml.safe_load(done.stdout)["services"][name]
    return found


@pytest.mark.parametrize("asked", ["config", "ps"])
@pytest.mark.parametrize("program", programs())
def test_compose_accepts_it_as_it_is(program: str, asked: str) -> None:
    """With everything that GPUs need; `ps` makes all services, `config` only prints them."""
    done = compose(program, asked)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("env", "request_"),
    [
        ({}, {"count": 1}),
        ({"GPUS": "2"}, {"count": 2}),
        ({"GPUS": "all"}, {"count": -1}),
        ({"GPUS": "ids", "GPU_IDS": "0,3"}, {"device_ids": ["0,3"]}),
    ],
)
@pytest.mark.parametrize("program", programs())
def test_the_gpus_that_are_asked_for(program: str, env: dict[str, str], request_: dict[str, Any]) -> None:
    (device,) = service_of(program, **env)["deploy"]["resources"]["reservations"]["devices"]
    found = {key: -1 if value == "all" else value for key, value in device.items() if key in {"count", "device_ids"}}
    assert found == request_


@pytest.mark.parametrize("program", programs())
def test_a_number_of_gpus_that_is_not_offered_is_an_error(program: str) -> None:
    done = compose(program, "config", GPUS="0,3")
    assert done.returncode != 0
    assert "gpus.yml" in done.stderr


@pytest.mark.parametrize("program", programs())
def test_variables_of_the_shell_and_of_a_file_are_handed_on_and_the_file_holds(program: str, tmp_path: Path) -> None:
    shell = {"ICHAT_TENSOR_PARALLEL_SIZE": "2", "ICHAT_MODEL_PATH": "org/of-the-shell"}
    of_shell = service_of(program, **shell)["environment"]
    assert {name: value for name, value in of_shell.items() if value is not None} == shell
    file = tmp_path / "my.env"
    file.write_text("ICHAT_MODEL_PATH=org/of-the-file\nICHAT_DTYPE=float16\nNCCL_DEBUG=INFO\n")
    both = service_of(program, ENV_FILE=str(file), **shell)["environment"]
    assert {name: value for name, value in both.items() if value is not None} == {
        "ICHAT_TENSOR_PARALLEL_SIZE": "2", "ICHAT_MODEL_PATH": "org/of-the-file", "ICHAT_DTYPE": "float16",
        "NCCL_DEBUG": "INFO",
    }  # fmt: skip


def test_compose_builds_the_image(image: str) -> None:
    """From the layers that `make image` has made: in seconds, and nothing is pulled."""
    wanted = "ichat-test-compose:cpu"
    env = {"CPU_IMAGE": wanted, "DOCKER_BUILDKIT": "1", "COMPOSE_DOCKER_CLI_BUILD": "1", "PATH": path_with_buildkit()}
    done = compose("docker-compose", "--profile", "cpu", "build", "--build-arg", f"BASE_IMAGE={BASE}", "cpu", **env)
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        of_compose, of_make = (
            json.loads(docker("image", "inspect", name))[0]["RootFS"]["Layers"] for name in (wanted, image)
        )
        assert of_compose == of_make
    finally:
        docker("image", "rm", "--force", wanted)


def path_with_buildkit() -> str:
    """The first client that can build with BuildKit is the first that is found, as scripts/image looks for it."""
    env = os.environ | {"DOCKER_BUILDKIT": "1"}
    can = subprocess.run(["docker", "build", "--help"], env=env, capture_output=True, check=False).returncode == 0
    return os.environ["PATH"] if can else f"/usr/bin:{os.environ['PATH']}"


@pytest.fixture(scope="module")
def without_gpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same file for a machine that has none: no reservation, the image for the CPU.

    Without limits, too: a daemon inside a sandbox may not raise them.
    """
    content = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    for service in content["services"].values():
        if "ichat" in service["image"]:
            service.pop("extends", None)
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

    def __init__(self, port: int, inner: int = 8000) -> None:
        super().__init__(port=inner)
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


@pytest.fixture
def with_key(without_gpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    (tmp_path / "key").write_text("a-key-for-this-test\n")
    (tmp_path / "key").chmod(0o644)
    (tmp_path / "my.env").write_text("ICHAT_SERVED_MODEL_NAME=of-the-file\n")
    given = {
        "PORT": "18002", "ICHAT_PORT": "9000", "ICHAT_CONTEXT_LENGTH": "1024", "ICHAT_BACKEND": "sglang",
        "ENV_FILE": str(tmp_path / "my.env"), "ICHAT_API_KEY_FILE": str(tmp_path / "key"),
    }  # fmt: skip
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    secret = ROOT / "deploy" / "compose" / "api-key.yml"
    options = f"--project-directory {ROOT} --file {without_gpus} --profile cpu"
    with get_docker_services(
        f"docker-compose {options}", str(secret), f"ichat-test-{os.getpid()}", ["up --detach cpu"], ["down --volumes"]
    ) as services:
        yield services


def test_shell_file_and_secret_reach_the_container(with_key: Services) -> None:
    service = Composed(with_key.port_for("cpu", 9000), inner=9000).wait_healthy(180)
    assert service.ask("GET", "/v1/models")[0] == 401
    bearer = {"Authorization": "Bearer a-key-for-this-test"}
    (model,) = json.loads(service.ask("GET", "/v1/models", **bearer)[1])["data"]
    assert (model["id"], model["max_model_len"]) == ("of-the-file", 1024)
    assert "a-key-for-this-test" not in json.dumps(service.inspect())
