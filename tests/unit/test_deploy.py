"""What deploys the image: valid in its own language, and in keeping with the settings it relies on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

import ichat
from ichat.backends.engines import load_engines
from ichat.config.resolve import resolve
from ichat.config.schema import Timeouts
from ichat.config.sources import SECRETS, Sources

ROOT = Path(__file__).resolve().parents[2]
#: ichat has left so long after its drain, whatever hangs (docs/operations.md).
AFTER_DRAIN_S = 3
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
OURS = {name: service for name, service in COMPOSE["services"].items() if "ichat" in service["image"]}
#: Further files for `-f`, each with one secret.
BESIDE = ("deploy/compose/api-key.yml", "deploy/compose/hf-token.yml")
#: What the Dockerfile sets in the image.
IMAGE_ENV = re.findall(r"^ENV (?:.*\\\n)*.*", (ROOT / "Dockerfile").read_text(), re.M)


def seconds(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)([sm])", text).groups()  # type: ignore[union-attr]
    return float(number) * {"s": 1, "m": 60}[unit]


def variables_in(path: str) -> set[str]:
    lines = (ROOT / path).read_text().splitlines()
    return {line for line in lines if line and not line.startswith("#")}


HANDED_ON = variables_in("deploy/compose/variables.env")


# ---- Dockerfile -----------------------------------------------------------------------------------------------


def test_the_dockerfile_names_the_versions_that_are_pinned() -> None:
    given = dict(re.findall(r"^ARG (\w+_VERSION)=(\S+)$", (ROOT / "Dockerfile").read_text(), re.M))
    pins = dict(re.findall(r"^([a-z-]+)==(\S+)$", (ROOT / "requirements" / "pins.txt").read_text(), re.M))
    assert given == {
        "ICHAT_VERSION": ichat.__version__, "VLLM_VERSION": pins["vllm"], "SGLANG_VERSION": pins["sglang"],
    }  # fmt: skip


def test_the_base_image_is_named_by_its_content() -> None:
    (base,) = re.findall(r"^ARG CUDA_BASE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.M)
    assert re.fullmatch(r"nvidia/cuda:13\.\d+\.\d+-base-ubuntu24\.04@sha256:[0-9a-f]{64}", base)


def test_no_frontend_image_is_needed() -> None:
    assert "# syntax=" not in (ROOT / "Dockerfile").read_text()


def test_the_page_names_every_port_that_the_image_declares() -> None:
    declared = re.findall(r"^EXPOSE (\d+)$", (ROOT / "Dockerfile").read_text(), re.M)
    page = (ROOT / "docs" / "docker.md").read_text()
    assert [port for port in declared if f"| {port}/tcp |" not in page] == []
    assert declared == re.findall(r"^\| (\d+)/tcp \|", page, re.M)


# ---- Compose --------------------------------------------------------------------------------------------------


def as_compose_reads_it(name: str) -> str:
    """With its defaults, and a value for what must be given."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (ROOT / name).read_text())
    text = re.sub(r"\$\{\w+:\?[^}]*\}", "given", text)
    # Compose takes both of these; this library of May 2026 does not yet.
    text = re.sub(r"(image: \S+?):\S+?@", r"\1@", text)
    return yaml.safe_dump(yaml.safe_load(text.replace("restart: on-failure:5", "restart: on-failure")))


@pytest.mark.parametrize("name", ["docker-compose.yml", *BESIDE, "deploy/compose/gpus.yml"])
def test_a_compose_file_fits_the_compose_specification(name: str) -> None:
    """Which Compose v2 implements; for 1.29 tests/image asks docker-compose itself."""
    text = as_compose_reads_it(name)
    PyCompose.from_yaml(text)
    with pytest.raises(ValueError, match="services"):
        PyCompose.from_yaml(text.replace("services:", "servces:"))


@pytest.mark.parametrize("name", OURS)
def test_a_service_may_take_longer_to_stop_than_its_drain(name: str) -> None:
    assert seconds(OURS[name]["stop_grace_period"]) > Timeouts().drain_s + AFTER_DRAIN_S


@pytest.mark.parametrize("name", OURS)
def test_a_service_has_no_more_rights_than_it_needs(name: str) -> None:
    service = OURS[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["tmpfs"] == ["/tmp", "/run/ichat"]


@pytest.mark.parametrize("name", OURS)
def test_a_service_is_handed_every_variable_of_the_shell_and_of_a_file(name: str) -> None:
    """The key among them: without it a service that was meant to have one would answer everybody."""
    assert OURS[name]["env_file"] == ["deploy/compose/variables.env", "${ENV_FILE:-deploy/compose/none.env}"]
    assert {"ICHAT_API_KEY", "ICHAT_API_KEY_FILE", "HF_TOKEN", "ICHAT_TENSOR_PARALLEL_SIZE"} <= HANDED_ON
    assert variables_in("deploy/compose/none.env") == set()
    # Named there, a variable that the shell lacks would hide the file's: docker-compose 1.29, and Compose v2.
    assert not {line.partition("=")[0] for line in OURS[name].get("environment", ()) if "=" not in line}


def test_every_variable_that_is_documented_is_handed_on() -> None:
    pages = "".join((ROOT / "docs" / name).read_text() for name in ("configuration.md", "docker.md"))
    rows = [line for line in pages.splitlines() if line.startswith("|")]
    documented = {name for row in rows for name in re.findall(r"`((?:ICHAT|HF)_[A-Z_]+)(?:=[^`]*)?`", row)}
    assert len(documented) > 100
    image = set(re.findall(r"\b((?:ICHAT|HF)_\w+)=", "".join(IMAGE_ENV)))
    assert documented - HANDED_ON <= image
    assert not HANDED_ON & image, "docker-compose 1.29 would take it from the container where the shell lacks it"


@pytest.mark.parametrize("path", BESIDE)
def test_a_secret_from_a_file_reaches_every_service_of_ours(path: str) -> None:
    content = yaml.safe_load((ROOT / path).read_text())
    assert set(content["services"]) == set(OURS)
    ((secret, source),) = content["secrets"].items()
    for service in content["services"].values():
        ((variable, place),) = (line.split("=") for line in service["environment"])
        assert (service["secrets"], place) == ([secret], f"/run/secrets/{secret}")
        assert variable.removesuffix("_FILE") in SECRETS
        assert source["file"].startswith(f"${{{variable}:?"), "the shell's variable names the file on this machine"


@pytest.mark.parametrize("name", [name for name in OURS if name != "cpu"])
def test_a_service_gets_the_gpus_that_are_asked_for(name: str) -> None:
    assert OURS[name]["extends"] == {"file": "deploy/compose/gpus.yml", "service": "${GPUS:-1}"}
    assert "extends" not in OURS["cpu"]


def test_a_request_for_gpus_is_of_a_number_of_all_or_of_those_named() -> None:
    offered = yaml.safe_load((ROOT / "deploy" / "compose" / "gpus.yml").read_text())["services"]
    for name, service in offered.items():
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert (device.pop("driver"), device.pop("capabilities")) == ("nvidia", ["gpu"])
        count = int(name) if name.isdigit() else name
        assert device == ({"device_ids": ["${GPU_IDS:-0}"]} if name == "ids" else {"count": count})
    assert {"1", "2", "4", "8", "all", "ids"} <= set(offered)


@pytest.mark.parametrize("name", OURS)
def test_a_service_is_built_from_the_checkout_for_what_it_runs_on(name: str) -> None:
    build = OURS[name]["build"]
    args = dict(line.split("=", 1) for line in build["args"])
    assert build["context"] == "."
    assert args.pop("ACCELERATOR") == ("cpu" if name == "cpu" else "cuda")
    known = dict(re.findall(r"^ARG (\w+)=(.*)$", (ROOT / "Dockerfile").read_text(), re.M))
    assert {arg: re.sub(r"\$\{\w+:-(.*)\}", r"\1", value) for arg, value in args.items()} == {
        arg: known[arg].strip('"') for arg in args
    }


@pytest.mark.parametrize("name", sorted(set(COMPOSE["services"]) - set(OURS)))
def test_what_is_not_ours_is_named_by_its_content(name: str) -> None:
    assert re.fullmatch(r"[a-z/]+:v?[\d.]+@sha256:[0-9a-f]{64}", COMPOSE["services"][name]["image"])


def test_each_profile_is_offered_and_one_is_the_default() -> None:
    profiles = {profile for service in COMPOSE["services"].values() for profile in service["profiles"]}
    assert profiles == {"gpu", "cpu", "vllm", "sglang", "multi", "monitoring"}
    assert "COMPOSE_PROFILES=gpu\n" in (ROOT / ".env").read_text()


def test_files_that_services_mount_are_there() -> None:
    for service in COMPOSE["services"].values():
        for mount in service.get("volumes", []):
            source = mount.partition(":")[0]
            assert not source.startswith(".") or (ROOT / source).exists(), source


@pytest.mark.parametrize("name", ["multi-vllm", "multi-sglang"])
def test_each_of_several_services_has_a_model_of_its_own(name: str) -> None:
    env = dict(line.split("=", 1) for line in OURS[name]["environment"] if "=" in line)
    example = str(ROOT / "configs" / "examples" / "two-engines.yaml")
    resolved = resolve(Sources.read(["--config", example], env), load_engines())
    assert [model.backend for model in resolved.settings.models] == [name.removeprefix("multi-")]


# ---- monitoring -----------------------------------------------------------------------------------------------


def test_prometheus_asks_every_service_of_ours() -> None:
    content: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "monitoring" / "prometheus.yml").read_text())
    targets = content["scrape_configs"][0]["static_configs"][0]["targets"]
    assert {target.partition(":")[0] for target in targets} == set(OURS)
    (rules,) = content["rule_files"]
    mounts = COMPOSE["services"]["prometheus"]["volumes"]
    assert f"./deploy/monitoring/{rules}:/etc/prometheus/{rules}:ro" in mounts


def test_every_alert_tells_what_to_look_at() -> None:
    (group,) = yaml.safe_load((ROOT / "deploy" / "monitoring" / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]:
        assert rule["expr"]
        assert rule["annotations"]["summary"]


@pytest.mark.parametrize(("path", "least"), [("grafana/dashboards/ichat.json", 14), ("alerts.yml", 6)])
def test_what_is_shown_and_watched_are_metrics_that_exist(path: str, least: int) -> None:
    text = (ROOT / "deploy" / "monitoring" / path).read_text()
    documented = (ROOT / "docs" / "front.md").read_text()
    shown = set(re.findall(r"ichat_front_\w+?(?=_bucket|\b)", text))
    assert len(shown) >= least
    assert [name for name in shown if f"`{name}`" not in documented] == []
