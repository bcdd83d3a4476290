"""Compilers are known by the first word of their command line."""

import pytest

from ichat.backends.compilers import is_at_work, is_compiler


@pytest.mark.parametrize(
    "title",
    [
        "/opt/ichat/vllm/lib/python3.12/site-packages/nvidia/cu13/bin/nvcc -c a.cu",
        "/site-packages/triton/backends/nvidia/bin/ptxas -lineinfo -v /tmp/x.ptx",
        "g++ -shared -fPIC",
        "x86_64-linux-gnu-g++-13 -c",
        "/usr/lib/gcc/x86_64-linux-gnu/13/cc1plus -quiet",
        "gcc-12 x.c",
    ],
)
def test_a_compiler_is_one_wherever_it_lies(title: str) -> None:
    assert is_compiler(title)
    assert is_at_work(title)


def test_ninja_drives_and_makes_nothing_itself() -> None:
    assert is_at_work("/opt/ichat/vllm/bin/ninja -v -C /cache")
    assert not is_compiler("/opt/ichat/vllm/bin/ninja -v -C /cache")


@pytest.mark.parametrize("title", ["", "VLLM::Worker", "python -m g++", "sglang::scheduler", "/bin/sh -c nvcc"])
def test_nothing_else_is(title: str) -> None:
    assert not is_at_work(title)
