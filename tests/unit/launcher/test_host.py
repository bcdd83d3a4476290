"""What a container must offer: each lack is told with the way out, before anything is started."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from ichat.config.schema import Model
from ichat.errors import ExitCode, ResourceError
from ichat.launcher import environment, host

ONE = Model(name="demo", model_path="org/model", backend="vllm", accelerator="cpu")
TWO = ONE.model_copy(update={"tensor_parallel_size": 2})
DOCKERS_DEFAULT = 64 * 2**20


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "free_shared_memory", lambda: DOCKERS_DEFAULT)


def test_without_a_gpu_it_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(host, "_NVIDIA_DEVICES", (tmp_path / "nvidiactl",))
    with pytest.raises(ResourceError, match="--gpus all") as found:
        host.check_host(ONE, "cuda")
    assert found.value.exit_code == ExitCode.RESOURCE
    assert len(found.value.line()) < 300
    (tmp_path / "nvidiactl").touch()
    host.check_host(ONE, "cuda")


def test_a_machine_that_the_engines_are_not_built_for_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    host.check_machine(ONE)
    there = SimpleNamespace(machine="aarch64")
    monkeypatch.setattr(host.os, "uname", lambda: there)
    with pytest.raises(ResourceError, match=r"this machine is aarch64, .* x86_64 only") as found:
        host.check_machine(ONE)
    assert found.value.exit_code == ExitCode.RESOURCE
    assert len(found.value.line()) < 300
    host.check_machine(ONE.model_copy(update={"backend": "fake"}))


def test_several_ranks_of_vllm_need_shared_memory(small: None) -> None:
    with pytest.raises(ResourceError, match=r"64 MiB free, vLLM needs 241.*--shm-size") as found:
        host.check_host(TWO, "cpu")
    assert found.value.exit_code == ExitCode.RESOURCE
    assert len(found.value.line()) < 300
    host.check_host(TWO.model_copy(update={"backend": "sglang"}), "cpu")


def test_a_single_rank_does_without_it_and_says_so(small: None) -> None:
    host.check_host(ONE, "cpu")
    assert environment.for_worker({}, ONE, "/t")["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert "EngineCore does its work" in host.notices(ONE, "cpu")[0]
    asked = {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    assert environment.for_worker(asked, ONE, "/t")["VLLM_ENABLE_V1_MULTIPROCESSING"] == "1", "the user's word"


def test_where_there_is_room_vllm_starts_as_it_likes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "free_shared_memory", lambda: 2**30)
    host.check_host(TWO, "cpu")
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in environment.for_worker({}, ONE, "/t")
    assert host.notices(ONE, "cpu") == ()
