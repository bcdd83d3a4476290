"""docs/from-ichat.md, built as it stands: an image on top of this one, with each thing that the page adds."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.image.engine import IMAGE, ROOT, docker

PAGE = (ROOT / "docs" / "from-ichat.md").read_text()
DERIVED = "ichat-test:derived"


@pytest.fixture(scope="module")
def derived(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Built from the page's Dockerfile, for the CPU: the base and the lock file's name are all that differ."""
    folder = tmp_path_factory.mktemp("derived")
    snippet = re.search(r"```dockerfile\n(.*?)```", PAGE, re.S)
    assert snippet is not None
    text = snippet[1].replace("FROM ichat:latest", f"FROM {image}").replace("vllm-cuda.txt", "vllm-cpu.txt")
    # What the network of this machine needs, as docker/inputs does it for the image itself.
    inputs = [path.name for path in (ROOT / "docker" / "inputs").iterdir() if path.name in ("ca.crt", "pip.conf")]
    index = (
        re.search(r"index-url = (.*)", (ROOT / "docker/inputs/pip.conf").read_text()) if "pip.conf" in inputs else None
    )
    settings = {"UV_DEFAULT_INDEX": index[1]} if index else {}
    if "ca.crt" in inputs:
        (folder / "ca.crt").write_bytes((ROOT / "docker/inputs/ca.crt").read_bytes())
        settings["SSL_CERT_FILE"] = "/inputs/ca.crt"
    mount = "--mount=type=bind,source=.,target=/inputs"
    variables = " ".join(f"{name}={value}" for name, value in settings.items())
    text = text.replace("RUN uv pip install", f"RUN {mount} {variables} uv pip install")
    (folder / "Dockerfile").write_text(text)
    make_certificate(folder / "company-ca.crt")
    (folder / "my-model").symlink_to("demo")
    subprocess.run(["cp", "-r", ROOT / "models" / "demo", folder / "demo"], check=True)
    (folder / "my-model").unlink()
    (folder / "demo").rename(folder / "my-model")
    (folder / "kernel-cache" / "triton").mkdir(parents=True)
    (folder / "kernel-cache" / "triton" / "kernel").write_text("compiled")
    build = [
        "/usr/bin/docker" if Path("/usr/bin/docker").exists() else "docker",
        "build",
        "--tag",
        DERIVED,
        str(folder),
    ]
    done = subprocess.run(
        build, env={"DOCKER_BUILDKIT": "1", "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    yield DERIVED
    docker("image", "rm", "--force", DERIVED)


def make_certificate(path: Path) -> None:
    subject = ["-subj", "/CN=Company CA", "-days", "2"]
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        "/dev/null",
        *subject,
        "-out",
        str(path),
    ]
    subprocess.run(command, capture_output=True, check=True)


def run(image: str, *argv: str) -> str:
    return docker("run", "--rm", "--network", "none", image, *argv)


def test_the_package_is_in_one_environment_and_moved_nothing(derived: str) -> None:
    ask = "import importlib.metadata as m; print(m.version('einops-exts'), m.version('torch'))"
    before = "import importlib.metadata as m; print(m.version('torch'))"
    torch = run(IMAGE, "/opt/ichat/vllm/bin/python", "-c", before)
    assert run(derived, "/opt/ichat/vllm/bin/python", "-c", ask) == f"0.0.4 {torch}"
    other = "import importlib.util as u; print(u.find_spec('einops_exts'))"
    assert run(derived, "/opt/ichat/sglang/bin/python", "-c", other) == "None"


def test_the_certificate_is_one_of_those_that_are_trusted(derived: str) -> None:
    ask = (
        "import ssl; print([c['subject'] for c in ssl.create_default_context().get_ca_certs() if 'Company' in str(c)])"
    )
    assert "Company CA" in run(derived, "/opt/ichat/vllm/bin/python", "-c", ask)


def test_it_serves_the_model_of_its_own_and_runs_as_before(derived: str) -> None:
    told = run(derived, "config")
    assert "/models/my-model" in told
    assert "mine" in told
    assert run(derived, "id", "-u") == "10001"


def test_the_kernels_are_in_a_new_volume_and_can_be_added_to(derived: str) -> None:
    told = run(derived, "sh", "-c", "cat /cache/triton/kernel && touch /cache/triton/more && ls /cache/triton")
    assert told.split() == ["compiledkernel", "more"]
