"""deploy/kubernetes: valid in its own language, and in keeping with the settings it relies on."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from ichat.backends.engines import load_engines
from ichat.config.resolve import resolve
from ichat.config.schema import Timeouts
from ichat.config.sources import Sources

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "deploy" / "kubernetes"
FOLDERS = ("base", "monitoring", "two-gpus")
#: ichat has left so long after its drain, whatever hangs (docs/operations.md).
AFTER_DRAIN_S = 3
KUSTOMIZATIONS: dict[str, dict[str, Any]] = {
    folder: yaml.safe_load((HERE / folder / "kustomization.yaml").read_text()) for folder in FOLDERS
}
MANIFESTS: dict[str, dict[str, Any]] = {
    document["kind"]: document
    for name in KUSTOMIZATIONS["base"]["resources"]
    for document in yaml.safe_load_all((HERE / "base" / name).read_text())
}
POD = MANIFESTS["Deployment"]["spec"]["template"]["spec"]
CONTAINER = POD["containers"][0]
POD_LABELS = MANIFESTS["Deployment"]["spec"]["template"]["metadata"]["labels"]
OVERLAY = KUSTOMIZATIONS["two-gpus"]
#: The fields of a PodMonitor that ours may use, after the custom resource's definition of the operator 0.87.
DURATION = {
    "type": "string",
    "pattern": r"^(0|(([0-9]+)y)?(([0-9]+)w)?(([0-9]+)d)?(([0-9]+)h)?(([0-9]+)m)?(([0-9]+)s)?)$",
}
POD_MONITOR = {
    "type": "object",
    "additionalProperties": False,
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "monitoring.coreos.com/v1"},
        "kind": {"const": "PodMonitor"},
        "metadata": {"type": "object", "required": ["name"]},
        "spec": {
            "type": "object",
            "additionalProperties": False,
            "required": ["selector", "podMetricsEndpoints"],
            "properties": {
                "selector": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {"matchLabels": {"type": "object", "additionalProperties": {"type": "string"}}},
                },
                "podMetricsEndpoints": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "additionalProperties": False,
                        "properties": {
                            "port": {"type": "string"},
                            "path": {"type": "string"},
                            "interval": DURATION,
                            "scrapeTimeout": DURATION,
                        },
                    },
                },
            },
        },
    },
}


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


def test_a_node_can_be_drained_whatever_the_number_of_pods() -> None:
    """`minAvailable: 1` with one replica would hold the drain up for ever, and a pod that never gets ready, too."""
    spec = MANIFESTS["PodDisruptionBudget"]["spec"]
    assert spec["maxUnavailable"] == 1
    assert spec["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    assert spec["selector"]["matchLabels"].items() <= POD_LABELS.items()


def test_prometheus_is_told_where_the_metrics_of_a_pod_are() -> None:
    monitor = yaml.safe_load((HERE / "monitoring" / "podmonitor.yaml").read_text())
    jsonschema.validate(monitor, POD_MONITOR)
    assert monitor["spec"]["selector"]["matchLabels"].items() <= POD_LABELS.items()
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in {port["name"] for port in CONTAINER["ports"]}
    assert float(endpoint["scrapeTimeout"].rstrip("s")) <= float(endpoint["interval"].rstrip("s"))
    monitor["spec"]["podMetricsEndpoints"][0]["timeout"] = "4s"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(monitor, POD_MONITOR)


# ---- kustomization --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_kustomization_names_every_file_beside_it(folder: str) -> None:
    content = KUSTOMIZATIONS[folder]
    generated = [name for one in content.get("configMapGenerator", ()) for name in one["files"]]
    named = [*content["resources"], *content.get("components", ()), *generated]
    assert [name for name in named if not (HERE / folder / name).exists()] == []
    beside = {path.name for path in (HERE / folder).iterdir()} - {"kustomization.yaml"}
    assert beside == {name for name in named if not name.startswith("..")}


def test_kinds_of_kustomizations_fit_how_they_are_named() -> None:
    assert {name: content["kind"] for name, content in KUSTOMIZATIONS.items()} == {
        "base": "Kustomization", "monitoring": "Component", "two-gpus": "Kustomization",
    }  # fmt: skip
    assert (OVERLAY["resources"], OVERLAY["components"]) == (["../base"], ["../monitoring"])


def test_the_overlay_changes_what_is_there() -> None:
    for patch in OVERLAY["patches"]:
        target = MANIFESTS[patch["target"]["kind"]]
        assert target["metadata"]["name"] == patch["target"]["name"]
        changes = yaml.safe_load(patch["patch"])
        for change in changes if isinstance(changes, list) else ():
            found: Any = target
            for key in change["path"].strip("/").split("/"):
                found = found[key]
    (image,) = OVERLAY["images"]
    assert CONTAINER["image"].partition(":")[0] == image["name"]
    (generated,) = OVERLAY["configMapGenerator"]
    assert (generated["name"], generated["behavior"]) == (MANIFESTS["ConfigMap"]["metadata"]["name"], "replace")
    assert set(generated["files"]) == set(MANIFESTS["ConfigMap"]["data"])


def test_the_overlay_gives_its_model_the_gpus_that_it_asks_for() -> None:
    deployment = next(
        yaml.safe_load(one["patch"]) for one in OVERLAY["patches"] if one["target"]["kind"] == "Deployment"
    )
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["name"] == CONTAINER["name"]
    resources = container["resources"]
    (model,) = resolve(
        Sources.read(["--config", str(HERE / "two-gpus" / "configs.yaml")], {}), load_engines()
    ).settings.models
    assert {resources[kind]["nvidia.com/gpu"] for kind in resources} == {str(model.tensor_parallel_size)}


@pytest.mark.skipif(not shutil.which("kubectl"), reason="no kubectl here; the tests above read the same files")
@pytest.mark.parametrize("folder", ["base", "two-gpus"])
def test_what_kubectl_makes_of_it_is_valid(folder: str) -> None:
    done = subprocess.run(["kubectl", "kustomize", HERE / folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = {document["kind"]: document for document in yaml.safe_load_all(done.stdout)}
    monitor = made.pop("PodMonitor", None)
    assert (monitor is not None) == (folder == "two-gpus")
    assert made.keys() == MANIFESTS.keys()
    for document in made.values():
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
