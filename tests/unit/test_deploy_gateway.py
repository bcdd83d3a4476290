"""deploy/gateway: valid in its own language, and in keeping with the settings it relies on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

from ichat.backends.engines import load_engines
from ichat.config.resolve import resolve
from ichat.config.schema import Timeouts
from ichat.config.sources import Sources

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "deploy" / "gateway"
#: ichat has left so long after its drain, whatever hangs (docs/operations.md).
AFTER_DRAIN_S = 3


def filled_in(name: str) -> str:
    """As compose reads it: with its defaults and a key."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (HERE / name).read_text())
    # The specification has it, this library of May 2026 not yet.
    return re.sub(r"\$\{GATEWAY_KEY[^}]*\}", "a-key", text).replace("restart: on-failure:5", "restart: on-failure")


def services(name: str = "docker-compose.yml") -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(filled_in(name))["services"]
    return found


CONTAINERS = [name for name, service in services().items() if "ichat" in service["image"]]


@pytest.mark.parametrize("name", ["docker-compose.yml", "gpus.yml"])
def test_the_files_fit_the_compose_specification(name: str) -> None:
    PyCompose.from_yaml(yaml.safe_dump(yaml.safe_load(filled_in(name))))
    with pytest.raises(ValueError, match="images"):
        PyCompose.from_yaml(yaml.safe_dump(yaml.safe_load(filled_in(name).replace("image:", "images:"))))


def test_there_are_two_containers_and_only_the_router_is_reached_from_outside() -> None:
    assert CONTAINERS == ["ichat-a", "ichat-b"]
    assert [name for name, service in services().items() if "ports" in service] == ["router"]


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_container_registers_at_its_own_name_with_the_key_that_the_router_knows(name: str) -> None:
    router = services()["router"]["command"]
    env = dict(one.split("=", 1) for one in services()[name]["environment"] if "=" in one)
    gateway = resolve(Sources.read([], env), load_engines()).settings.gateway
    assert gateway.address == f"http://router:{next(one for one in router if '--port=' in one).partition('=')[2]}"
    assert gateway.advertise == f"http://{name}:8000"
    assert gateway.api_key is not None
    assert f"1:ichat:admin:{gateway.api_key.get_secret_value()}" == router[router.index("--control-plane-api-keys") + 1]


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_container_has_time_to_leave_and_no_more_rights_than_it_needs(name: str) -> None:
    service = services()[name]
    assert float(service["stop_grace_period"].removesuffix("s")) > Timeouts().drain_s + AFTER_DRAIN_S
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["tmpfs"] == ["/tmp", "/run/ichat"]
    assert service["env_file"] == ["../compose/variables.env", "../compose/none.env"]
    assert all((HERE / path).exists() for path in service["env_file"])
    assert "ICHAT_PORT=8000" in service["environment"], "whatever the shell says: the router knows it by this port"


def test_no_container_starts_without_a_key_for_the_router() -> None:
    assert "${GATEWAY_KEY:?" in (HERE / "docker-compose.yml").read_text()


def test_each_container_has_a_gpu_of_its_own() -> None:
    devices = [one["deploy"]["resources"]["reservations"]["devices"][0] for one in services("gpus.yml").values()]
    assert list(services("gpus.yml")) == CONTAINERS
    assert [one["device_ids"] for one in devices] == [["0"], ["1"]]


def test_files_that_are_mounted_are_there() -> None:
    sources = [mount.partition(":")[0] for name in CONTAINERS for mount in services()[name]["volumes"]]
    assert [source for source in sources if source.startswith(".") and not (HERE / source).exists()] == []


def test_the_router_is_the_version_that_the_tests_run() -> None:
    (locked,) = re.findall(r"^smg==(\S+)", (ROOT / "requirements" / "locks" / "peers.txt").read_text(), re.M)
    assert services()["router"]["image"] == f"lightseekorg/smg:{locked}"
