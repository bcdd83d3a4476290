"""Further versions of the engines: which there are, of what they are made, and how others are refused."""

import os
import subprocess

import pytest

from recipes import BESIDE, recipes_for
from versions import CPU, CUDA, ENGINES, ROOT, further_versions, pinned_version, refusal, supported_versions


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("accelerator", [CPU, CUDA])
def test_the_pinned_version_comes_first_and_is_made_of_the_plain_locks(engine: str, accelerator: str) -> None:
    version = supported_versions(engine, accelerator)[0]
    assert version == pinned_version(engine)
    assert recipes_for(engine, accelerator, version) == recipes_for(engine, accelerator)


@pytest.mark.parametrize("further", further_versions(), ids=lambda each: each.pins.stem)
def test_every_further_version_has_its_lock_and_names_itself(further) -> None:
    assert further.lock().is_file()
    assert f"\n{further.engine}=={further.version}\n" in further.pins.read_text()


@pytest.mark.parametrize(
    "further", [each for each in further_versions() if each.kind in {CPU, CUDA}], ids=lambda each: each.pins.stem
)
def test_a_further_version_takes_the_place_of_the_engine(further) -> None:
    best = recipes_for(further.engine, further.kind, further.version)[0]
    assert best.name == further.engine
    assert further.lock() in best.locks
    assert best.stamp() != recipes_for(further.engine, further.kind)[0].stamp()


def test_beside_the_pinned_ones_stand_those_that_the_tests_run_on_this_machine() -> None:
    assert all(each.kind != CUDA for each in BESIDE.values())
    for name in BESIDE:
        assert recipes_for(name, CUDA) == recipes_for(name, CPU), "whatever the machine has"


def test_a_version_without_locks_is_refused_with_those_that_have_some() -> None:
    told = refusal("sglang", "0.5.20", CPU)
    assert told
    assert told.startswith(
        f"SGLANG=0.5.20: there are no locks for it on a CPU. There are: {pinned_version('sglang')}, "
    )


def test_a_version_for_the_gpu_alone_is_told_as_such() -> None:
    only_there = [v for v in supported_versions("vllm", CUDA) if v not in supported_versions("vllm", CPU)]
    for version in only_there:
        assert "is not to be had for a CPU" in (refusal("vllm", version, CPU) or "")
        assert refusal("vllm", version, CUDA) is None


def test_the_refusal_comes_before_anything_is_built() -> None:
    env = os.environ | {"SGLANG": "0.0.1", "ACCELERATOR": "cpu"}
    for command in (["scripts/setup", "--check", "sglang"], ["scripts/image"]):
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=30)
        assert done.returncode == 69
        assert done.stderr.startswith("SGLANG=0.0.1: there are no locks for it on a CPU. There are: ")
