"""A driver that is too old for an engine's CUDA is told as such, with both versions and the way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from ichat.errors import ExitCode, ResourceError
from ichat.launcher.driver import check_driver, cuda_of

CLOSED = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Tue May 20 00:00:00 UTC 2025\nGCC version:  gcc 13\n"
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release Build  (dvs-builder@U22)\nGCC version: x\n"
TORCH = "from typing import Optional\n__version__ = '2.13.0+cu130'\ncuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n"


class Host:
    """A made-up root and an engine's environment in it."""

    def __init__(self, root: Path) -> None:
        self.root, self.environment = root, root / "opt" / "ichat" / "vllm"
        self.write("opt/ichat/vllm/lib/python3.12/site-packages/torch/version.py", TORCH)

    def write(self, path: str, text: str = "") -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def driver(self, version: str, form: str = OPEN) -> None:
        self.write("proc/driver/nvidia/version", form.format(version))

    def check(self, **environ: str) -> None:
        check_driver("qwen", self.environment, environ, self.root)


@pytest.fixture
def machine(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.mark.parametrize("form", [OPEN, CLOSED])
@pytest.mark.parametrize("version", ["550.54.15", "570.172.08", "580.65.05", "575.57"])
def test_an_older_driver_is_refused_with_both_versions(machine: Host, version: str, form: str) -> None:
    machine.driver(version, form)
    with pytest.raises(
        ResourceError, match=rf"qwen: .*driver {version} is too old.*CUDA 13\.0.*needs 580\.65\.06"
    ) as found:
        machine.check()
    assert found.value.exit_code == ExitCode.RESOURCE
    assert "cuda-compat-13-0" in str(found.value)
    assert len(found.value.line()) < 300


@pytest.mark.parametrize("version", ["580.65.06", "580.82.07", "590.10", "615.71.05"])
def test_a_driver_that_is_new_enough_is_not(machine: Host, version: str) -> None:
    machine.driver(version)
    machine.check()


def test_what_is_needed_follows_from_the_engines_own_torch(machine: Host) -> None:
    machine.driver("550.54.15")
    machine.write(
        "opt/ichat/vllm/lib/python3.12/site-packages/torch/version.py",
        "__version__ = 'x'\ncuda: Optional[str] = '12.8'\n",
    )
    machine.check()
    assert cuda_of(machine.environment) == (12, 8)


def test_the_compatibility_package_counts_where_the_loader_finds_it(machine: Host) -> None:
    machine.driver("550.54.15")
    machine.write("usr/local/cuda/compat/libcuda.so.580.95.05")
    with pytest.raises(ResourceError, match=r"-e LD_LIBRARY_PATH=/usr/local/cuda/compat") as found:
        machine.check(LD_LIBRARY_PATH="/usr/local/nvidia/lib64")
    assert "cuda-compat-13-0" not in str(found.value), "it is there already"
    machine.check(LD_LIBRARY_PATH="/usr/local/nvidia/lib64:/usr/local/cuda/compat")
    machine.write("etc/ld.so.conf.d/00-compat-123.conf", "/usr/local/cuda/compat\n")
    machine.check()


def test_a_compatibility_package_that_is_too_old_does_not(machine: Host) -> None:
    machine.driver("550.54.15")
    machine.write("usr/local/cuda/compat/libcuda.so.575.57.08")
    with pytest.raises(ResourceError):
        machine.check(LD_LIBRARY_PATH="/usr/local/cuda/compat")


def test_what_cannot_be_known_is_not_refused(machine: Host) -> None:
    machine.check()  # no driver under /proc: WSL
    machine.write("proc/driver/nvidia/version", "something new\n")
    machine.check()
    machine.driver("550.54.15")
    torch = "opt/ichat/vllm/lib/python3.12/site-packages/torch/version.py"
    machine.write(torch, "cuda: Optional[str] = None\n")
    machine.check()
    machine.write(torch, "cuda: Optional[str] = '99.1'\n")
    machine.check()
