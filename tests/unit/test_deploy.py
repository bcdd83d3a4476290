"""What deploys the image: valid in its own language, and in keeping with the settings it relies on."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from compose_spec import PyCompose

import ichat
from ichat.backends.engines import load_engines
from ichat.config.resolve import resolve
from ichat.config.schema import Timeouts
from ichat.config.sources import Sources

ROOT = Path(__file__).resolve().parents[2]
#: ichat has left so long after its drain, whatever hangs (docs/operations.md).
AFTER_DRAIN_S = 3
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
OURS = {name: service for name, service in COMPOSE["services"].items() if "ichat" in service["image"]}
MANIFESTS = {
    document["kind"]: document
    for path in sorted((ROOT / "deploy" / "kubernetes").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
}
POD = MANIFESTS["Deployment"]["spec"]["template"]["spec"]
CONTAINER = POD["containers"][0]


def seconds(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)([sm])", text).groups()  # type: ignore[union-attr]
    return float(number) * {"s": 1, "m": 60}[unit]


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


def test_the_compose_file_fits_the_compose_specification() -> None:
    """Which Compose v2 implements; for 1.29 tests/image asks docker-compose itself."""
    text = (ROOT / "docker-compose.yml").read_text()
    # The specification has it, this library of May 2026 not yet.
    text = text.replace("restart: on-failure:5", "restart: on-failure")
    with_defaults = yaml.safe_dump(yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)))
    PyCompose.from_yaml(with_defaults)
    with pytest.raises(ValueError, match="red_only"):
        PyCompose.from_yaml(with_defaults.replace("read_only", "red_only"))


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
def test_a_service_is_handed_the_key_of_the_shell(name: str) -> None:
    """Without it a service that was meant to have a key would answer everybody."""
    assert {"ICHAT_API_KEY", "HF_TOKEN"} <= set(OURS[name]["environment"])


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


# ---- Kubernetes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MANIFESTS)
def test_a_manifest_fits_the_schema_of_kubernetes(kind: str) -> None:
    kubernetes_validate.validate(MANIFESTS[kind], kubernetes_validate.latest_version(), strict=True)


def test_a_wrong_manifest_does_not() -> None:
    wrong = json.loads(json.dumps(MANIFESTS["Deployment"]))
    wrong["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)


def test_the_pod_meets_the_restricted_security_standard() -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/, rule by rule."""
    pod, container = POD["securityContext"], CONTAINER["securityContext"]
    assert pod["runAsNonRoot"] is True
    assert pod["runAsUser"] != 0
    assert pod["seccompProfile"]["type"] == "RuntimeDefault"
    assert container["allowPrivilegeEscalation"] is False
    assert container["capabilities"] == {"drop": ["ALL"]}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(POD)
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    assert all(set(volume) - {"name"} <= allowed for volume in POD["volumes"])
    assert not any("hostPort" in port for port in CONTAINER["ports"])


def test_the_pod_has_time_to_leave() -> None:
    env = {one["name"]: one.get("value") for one in CONTAINER["env"]}
    command = CONTAINER["lifecycle"]["preStop"]["exec"]["command"]
    assert command[0] == "sleep"
    assert POD["terminationGracePeriodSeconds"] > float(command[1]) + float(env["ICHAT_DRAIN_SECONDS"]) + AFTER_DRAIN_S


def test_the_startup_probe_waits_as_long_as_ichat_does() -> None:
    probe = CONTAINER["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= Timeouts().start_s


@pytest.mark.parametrize(
    ("probe", "path"), [("startupProbe", "/startupz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/livez")]
)
def test_probes_ask_endpoints_that_exist(probe: str, path: str) -> None:
    assert CONTAINER[probe]["httpGet"] == {"path": path, "port": "http"}
    assert f"`GET {path}`" in (ROOT / "docs" / "front.md").read_text()


def test_the_pod_gets_no_variables_that_look_like_settings() -> None:
    assert POD["enableServiceLinks"] is False
    assert MANIFESTS["Service"]["metadata"]["name"] != "ichat"


def test_what_the_pod_is_given_is_a_configuration(tmp_path: Path) -> None:
    path = tmp_path / "configs.yaml"
    path.write_text(MANIFESTS["ConfigMap"]["data"]["configs.yaml"])
    env = {one["name"]: one.get("value", "secret") for one in CONTAINER["env"]}
    resolved = resolve(Sources.read(["--config", str(path)], env), load_engines())
    assert resolved.settings.timeouts.linger_s == 0


def test_every_mount_has_its_volume() -> None:
    assert {mount["name"] for mount in CONTAINER["volumeMounts"]} == {volume["name"] for volume in POD["volumes"]}
    claim = next(v["persistentVolumeClaim"]["claimName"] for v in POD["volumes"] if "persistentVolumeClaim" in v)
    assert claim == MANIFESTS["PersistentVolumeClaim"]["metadata"]["name"]
    assert (
        MANIFESTS["Service"]["spec"]["selector"].items()
        <= MANIFESTS["Deployment"]["spec"]["template"]["metadata"]["labels"].items()
    )


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
