"""The promises of BaseBackend, kept by every backend."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from typing import Any

import pytest

from tests.real_versions import EVERY, engine_of
from tests.worker_process import DEMO, ROOT, python_of

#: A flag that ichat does not know, for each engine, and where it must be found again.
PASSED_THROUGH: dict[str, tuple[dict[str, Any], str, Any]] = {
    "fake": ({"processes": 2}, "processes", 2),
    "vllm": (
        {
            "enforce-eager": True,
            "kv-cache-memory-bytes": 2**27,
            "max-log-len": 77,
            "max-num-batched-tokens": 64,
            "max-num-seqs": 8,
        },
        "max_log_len",
        77,
    ),
    "sglang": (
        {"max-total-tokens": 4096, "decode-log-interval": 77, "chunked-prefill-size": 64},
        "decode_log_interval",
        77,
    ),
}
#: Where each engine keeps the model's path, the context length and the seed.
UNIFIED: dict[str, tuple[str, ...]] = {
    "fake": (),
    "vllm": ("model", "max_model_len", "seed"),
    "sglang": ("model_path", "context_length", "random_seed"),
}


@pytest.fixture(scope="module", params=["fake", *EVERY])
def life(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """A whole life of one backend, as tests/contract/inside.py saw it: (name, what it saw)."""
    backend = engine_of(request.param)
    directory = tmp_path_factory.mktemp(backend, numbered=True)
    os.mkdir(directory / "tmp")
    settings = {
        "name": "demo", "backend": backend, "model_path": str(DEMO), "context_length": 512, "seed": 7,
        "engine_args": PASSED_THROUGH[backend][0],
    }  # fmt: skip
    run = subprocess.run(
        [python_of(request.param), "-m", "tests.contract.inside", json.dumps(settings), directory,
         PASSED_THROUGH[backend][1], *UNIFIED[backend]],
        cwd=ROOT, env=os.environ | {"TMPDIR": str(directory / "tmp"), "OMP_NUM_THREADS": "1"}, capture_output=True, check=False,
        text=True, timeout=240,
    )  # fmt: skip
    line = next((line for line in run.stdout.splitlines() if line.startswith("OUTCOME ")), None)
    assert line, f"{request.param} ended with {run.returncode}:\n{run.stdout[-2000:]}\n{run.stderr[-4000:]}"
    return backend, json.loads(line.removeprefix("OUTCOME "))


def test_it_is_ready_only_between_the_warm_up_and_the_stop(life: tuple[str, dict[str, Any]]) -> None:
    _, seen = life
    assert seen["ready_before"] is False
    assert seen["phases"] == ["imports", "arguments", "weights", "server", "warm-up"]
    assert seen["ready_after"] is False


def test_it_hands_out_the_engines_own_parsed_arguments(life: tuple[str, dict[str, Any]]) -> None:
    backend, seen = life
    _, name, value = PASSED_THROUGH[backend]
    assert seen["args"][name] == value
    assert "args_too_early" not in seen


def test_it_passes_the_unified_arguments_on(life: tuple[str, dict[str, Any]]) -> None:
    backend, seen = life
    expected = [str(DEMO), 512, 7] if UNIFIED[backend] else []
    assert [seen["args"][name] for name in UNIFIED[backend]] == expected


def test_it_leaves_what_is_ours_alone(life: tuple[str, dict[str, Any]]) -> None:
    """Signal handlers and mask, working directory, umask, locale, our loggers (FAULTS.md E11)."""
    _, seen = life
    assert seen["after"] == seen["before"]


def test_it_watches_the_processes_of_its_engine(life: tuple[str, dict[str, Any]]) -> None:
    backend, seen = life
    titles = " ".join(seen["vital"])
    for title in {"fake": ["FAKE::Engine/0", "FAKE::Engine/1"], "vllm": ["VLLM::EngineCore", "VLLM::Worker"],
                  "sglang": ["sglang::scheduler", "sglang::detokenizer"]}[backend]:  # fmt: skip
        assert title in titles


def test_an_idle_engine_has_nothing_in_flight(life: tuple[str, dict[str, Any]]) -> None:
    _, seen = life
    assert seen["in_flight"] == 0
    assert "generate" in seen["tasks"]


def test_each_piece_of_a_long_prompt_is_progress(life: tuple[str, dict[str, Any]]) -> None:
    """An engine that is seen to compute a prompt for minutes is not dead."""
    backend, seen = life
    if backend == "fake":
        assert seen["progress"] == 1
        return
    assert seen["progress"] >= 3
    assert seen["owed"] == 64, "what one step takes of it"
    assert seen["tokens"] >= 200


def test_it_leaves_nothing_behind(life: tuple[str, dict[str, Any]]) -> None:
    backend, seen = life
    assert seen["children"] == []
    assert seen["socket"] is False
    assert seen["files"] == []
    assert seen["shm_left"] == []
    if backend != "fake":
        assert seen["shm_seen"], "the test would not notice a leak if it saw no shared memory at all"


async def test_the_owner_thread_gives_results_and_errors_back() -> None:
    from ichat.backends.owner_thread import OwnerThread, SystemExitError

    owner = OwnerThread("test")
    assert await owner.call(lambda: 42) == 42
    with pytest.raises(ZeroDivisionError):
        await owner.call(lambda: 1 // 0)
    with pytest.raises(SystemExitError, match="3"):
        await owner.call(lambda: exit(3))
    first, second = await asyncio.gather(owner.call(_thread_name), owner.call(_thread_name))
    assert first == second == "test"


def _thread_name() -> str:
    import threading

    return threading.current_thread().name
