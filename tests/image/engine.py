"""A Docker engine to test with, the base that the test image stands on, and the image itself, built as a user builds it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BASE = "ichat-test-base:bookworm"
#: Two checkouts on one Docker engine each name their own.
IMAGE = os.environ.get("ICHAT_TEST_IMAGE") or "ichat-test:cpu"
_WAYS_OUT = "start one (Debian: apt-get install docker.io docker-compose debootstrap, then dockerd), or run the tests as root on Debian"
_START_S = 60


class NoDockerError(Exception):
    """There is no Docker engine and none can be made: the message says what to do."""


def docker(*argv: str, timeout_s: float = 120, check: bool = True) -> str:
    """stdout of one docker command; AssertionError with its words when it fails."""
    done = subprocess.run(["docker", *argv], capture_output=True, text=True, check=False, timeout=timeout_s)
    assert not check or done.returncode == 0, f"docker {' '.join(argv)}: {done.stderr or done.stdout}"
    return done.stdout.strip()


def answers() -> bool:
    return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0


@contextmanager
def running_engine() -> Iterator[None]:
    """Use the engine that answers; else install and start Debian's, and stop it in the end."""
    if shutil.which("docker") and answers():
        # Its own client and daemon stay as they are.
        _install_what_is_missing({"docker-compose": "docker-compose", "debootstrap": "debootstrap"})
        yield
        return
    _install_what_is_missing({"dockerd": "docker.io", "docker-compose": "docker-compose", "debootstrap": "debootstrap"})
    log = Path(tempfile.mkdtemp(prefix="ichat-dockerd-")) / "log"
    with log.open("wb") as opened:
        daemon = subprocess.Popen(["dockerd"], stdout=opened, stderr=opened, process_group=0)
    try:
        _wait_for(daemon, log)
        yield
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(30)


def _install_what_is_missing(programs: dict[str, str]) -> None:
    missing = [package for program, package in programs.items() if not shutil.which(program)]
    if not missing:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise NoDockerError(f"no Docker engine answers, or {', '.join(missing)} is missing: {_WAYS_OUT}.")
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], capture_output=True, check=True)
    # iptables is only recommended by the package, and containers have no network without it.
    wanted = [*missing, "iptables"]
    subprocess.run(
        ["apt-get", "install", "-qq", "--yes", "--no-install-recommends", *wanted],
        env=env,
        capture_output=True,
        check=True,
    )


def _wait_for(daemon: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + _START_S
    while not answers():
        if daemon.poll() is not None or time.monotonic() > end:
            raise NoDockerError(f"dockerd does not start: {log.read_text()[-500:]}\nPlease {_WAYS_OUT}.")
        time.sleep(0.2)


def build_base() -> None:
    """A bare Debian, which no registry is needed for. Kept: the next run finds it."""
    if docker("image", "ls", "--quiet", BASE):
        return
    folder = Path(tempfile.mkdtemp(prefix="ichat-base-"))
    try:
        bootstrap = [
            "debootstrap",
            "--variant=minbase",
            "--include=ca-certificates",
            "bookworm",
            str(folder),
            *_mirror(),
        ]
        done = subprocess.run(bootstrap, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"debootstrap: {done.stdout[-1000:]}{done.stderr[-500:]}"
        with subprocess.Popen(["tar", "-C", str(folder), "-c", "."], stdout=subprocess.PIPE) as tar:
            subprocess.run(["docker", "import", "-", BASE], stdin=tar.stdout, capture_output=True, check=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _mirror() -> list[str]:
    """The one that this machine's own packages come from."""
    for path in (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list")):
        for line in path.read_text().splitlines() if path.exists() else ():
            words = line.split()
            if words[:1] == ["URIs:"]:
                return words[1:2]
            if words[:1] == ["deb"]:
                return [next(word for word in words if "://" in word)]
    return []


def build_image() -> str:
    """The image for the CPU with both engines, from the real Dockerfile. Layers that are there are used again."""
    build_base()
    env = os.environ | {"ACCELERATOR": "cpu", "BASE_IMAGE": BASE, "IMAGE": IMAGE, "ENGINES": "vllm sglang"}
    done = subprocess.run([ROOT / "scripts" / "image"], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"scripts/image: {(done.stdout + done.stderr)[-4000:]}"
    return IMAGE
