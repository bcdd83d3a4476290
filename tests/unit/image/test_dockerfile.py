"""What the Dockerfile promises without building it."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
PACKAGES = [
    line.split(maxsplit=2)
    for line in (ROOT / "docker" / "packages.txt").read_text().splitlines()
    if not line.startswith("#")
]


def test_no_image_is_needed_but_the_base() -> None:
    arguments = dict(re.findall(r"^ARG ([A-Z_]+)=(\S*)", DOCKERFILE, re.M))
    stages = set(re.findall(r"^FROM \S+ AS (\S+)", DOCKERFILE, re.M))
    sources = re.findall(r"^FROM (\S+)", DOCKERFILE, re.M)
    assert [name for name in sources if name not in stages and "$" not in name] == []
    assert set(re.findall(r"--from=(\S+)", DOCKERFILE)) <= stages
    assert "# syntax=" not in DOCKERFILE
    for base in ("CUDA_BASE", "CPU_BASE"):
        assert re.search(r":[^@]+@sha256:[0-9a-f]{64}$", arguments[base]), base


def test_the_base_is_chosen_by_the_accelerator_and_can_be_another() -> None:
    assert "FROM ${BASE_IMAGE:-base-${ACCELERATOR}} AS base\n" in DOCKERFILE
    assert {"base-cuda", "base-cpu"} <= set(re.findall(r" AS (\S+)", DOCKERFILE))


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package[0])
def test_every_package_says_where_it_goes_and_what_for(package: list[str]) -> None:
    assert len(package) == 3
    assert package[1] in ("all", "cuda", "cpu")


def test_what_a_network_card_of_gpus_needs_is_not_in_the_image_for_the_cpu() -> None:
    where = {name: image for name, image, _ in PACKAGES}
    for name in ("ffmpeg", "ibverbs-providers", "libibverbs1", "librdmacm1", "rdma-core", "numactl"):
        assert where[name] == "cuda"


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """A PATH on which this is an arm64 machine, with a Docker that would build whatever it is told."""
    for name, text in (
        ("uname", "echo aarch64"),
        ("docker", 'case $1 in version) echo arm64 ;; esac; echo "$@" >>"$0.log"'),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    return os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "DOCKER": str(tmp_path / "docker")}


@pytest.mark.parametrize("command", ["scripts/setup", "scripts/image"])
def test_another_processor_is_refused_in_one_line(command: str, machine: dict[str, str]) -> None:
    done = subprocess.run([ROOT / command], env=machine, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 69
    assert done.stdout == ""
    assert re.fullmatch(r"(aarch64|arm64): .*docs/docker\.md.*\n", done.stderr)
    log = Path(machine["DOCKER"] + ".log")
    assert not log.exists() or " -t " not in log.read_text().replace("--tag", "-t").partition("build --build-arg")[2]


def test_an_image_for_another_platform_is_refused_too(machine: dict[str, str]) -> None:
    env = machine | {"DOCKER_DEFAULT_PLATFORM": "linux/arm64"}
    done = subprocess.run([ROOT / "scripts/image"], env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.partition(":")[0]) == (69, "linux/arm64")


def built(tmp_path: Path, **variables: str) -> list[str]:
    """The words that scripts/image gives to `docker build`."""
    client = tmp_path / "docker"
    client.write_text(
        '#!/bin/sh\ncase $* in version*) echo amd64 ;; *--help*) ;; build*) printf "%s\\n" "$@" ;; esac\n'
    )
    client.chmod(0o755)
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "DOCKER": str(client)} | variables
    done = subprocess.run([ROOT / "scripts/image"], env=env, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_the_cpu_has_a_base_of_its_own_which_the_labels_name(tmp_path: Path) -> None:
    words = built(tmp_path, ACCELERATOR="cpu")
    base = re.search(r"^ARG CPU_BASE=(\S+)", DOCKERFILE, re.M)
    assert base is not None
    name, _, digest = base[1].partition("@")
    assert {f"BASE_NAME={name}", f"BASE_DIGEST={digest}", "ACCELERATOR=cpu", "EXTRAS=", "PREFETCH="} <= set(words)
    assert not any(word.startswith("BASE_IMAGE=") for word in words)


def test_extras_and_kernels_are_handed_to_the_build(tmp_path: Path) -> None:
    words = built(tmp_path, EXTRAS="nixl lmcache", PREFETCH="sm_90", BASE_IMAGE="mine")
    assert {"EXTRAS=nixl lmcache", "PREFETCH=sm_90", "BASE_IMAGE=mine", "BASE_NAME=mine", "BASE_DIGEST="} <= set(words)


def test_the_source_is_an_address_without_a_password_or_nothing(tmp_path: Path) -> None:
    git = tmp_path / "git"
    git.write_text('#!/bin/sh\ncase $1 in config) echo "$REMOTE" ;; log) echo 2026-01-01T00:00:00+00:00 ;; esac\n')
    git.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    for remote, source in {
        "https://me:secret@forge.example/ichat.git": "https://forge.example/ichat.git",
        "https://forge.example/ichat.git": "https://forge.example/ichat.git",
        "/home/me/ichat": "",
    }.items():
        words = built(tmp_path, PATH=path, REMOTE=remote)
        assert f"SOURCE={source}" in words
        assert "CREATED=2026-01-01T00:00:00+00:00" in words


def test_a_base_that_cannot_be_fetched_is_named_with_the_way_out(tmp_path: Path) -> None:
    client = tmp_path / "docker"
    client.write_text("#!/bin/sh\ncase $* in version*) echo amd64 ;; *--help*) ;; *) exit 1 ;; esac\n")
    client.chmod(0o755)
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "DOCKER": str(client), "BASE_IMAGE": "no/such:base"}
    done = subprocess.run([ROOT / "scripts/image"], env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("no/such:base: this machine cannot fetch it")
    assert "BASE_IMAGE=" in done.stderr
