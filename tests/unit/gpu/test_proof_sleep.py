"""The checks that need a GPU can pass and can fail: they are driven here with a scripted driver and a scripted engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.gpu import device_checks
from tests.gpu.bench import Bench, NotPossibleError, Site
from tests.gpu.device import Device
from tests.unit.gpu.scripted_gpu import ScriptedGpu

GIB = 1024


class Engine(Bench):
    """It uses 40 GiB, so many of them while it sleeps, and so many when it is awake again."""

    def __init__(self, folder: Path, *, asleep: int = 2, again: int = 40, says: str = "what it was taught") -> None:
        self._gpu = ScriptedGpu(used_mib=1 * GIB)
        device = Device("0", self._gpu)
        super().__init__("vllm", Site(folder, "cuda", folder, device, device.sample()), {})
        self._gpu.used_mib = 41 * GIB
        self._asleep, self._again, self._says = asleep, again, ["what it was taught", says]
        self._is_asleep = False
        self.commands: list[tuple[str, dict[str, Any]]] = []

    @property
    def running(self) -> Any:
        return self

    def get(self, path: str) -> tuple[int, str]:
        return (503, "") if self._is_asleep else (200, "")

    def wait_for(self, condition: Any, limit_s: float) -> None:
        assert condition()

    def chat(self, question: str, **asked: Any) -> str:
        return self._says.pop(0)

    def command(self, action: str, **arguments: Any) -> dict[str, Any]:
        self.commands.append((action, arguments))
        self._is_asleep = action == "sleep"
        self._gpu.used_mib = (1 + (self._asleep if self._is_asleep else self._again)) * GIB
        return {}


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_checks, "_SETTLE_S", 0)


def test_an_engine_that_gives_its_memory_up_and_takes_it_back_passes_with_figures(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    figures = device_checks.deep_sleep(engine)
    assert figures == {"awake_gib": 41.0, "asleep_gib": 3.0, "awake_again_gib": 41.0, "given_up": 0.95}
    assert engine.commands == [("sleep", {"level": 2}), ("wake_up", {})]


@pytest.mark.parametrize(
    ("behaviour", "why"),
    [
        ({"asleep": 30}, "it gave up 25% of what it had taken, expected 50% or more"),
        ({"again": 5}, "it did not take its memory back"),
        ({"says": "nonsense"}, "after level 1 it says 'nonsense', before 'what it was taught'"),
    ],
)
def test_one_that_does_not_fails_with_the_reason(tmp_path: Path, behaviour: dict[str, Any], why: str) -> None:
    with pytest.raises(AssertionError, match=why):
        device_checks.sleep(Engine(tmp_path, **behaviour))


def test_a_driver_that_does_not_tell_the_memory_makes_it_impossible_and_no_success(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    engine._gpu.used_mib = "[N/A]"  # type: ignore[assignment]
    with pytest.raises(NotPossibleError, match="does not tell how much memory is in use"):
        device_checks.sleep(engine)


VLLM = "(EngineCore) INFO [topk_topp_sampler.py:124] Using FlashInfer for top-p & top-k sampling.\n"
FELL_BACK = "WARNING [topk_topp_sampler.py:131] FlashInfer top-p/top-k sampling unavailable: no nvcc; falling back.\n"
SGLANG = "server_args={'sampling_defaults': 'model', 'sampling_backend': 'pytorch', 'x': 1}\n"


class Logging(Bench):
    """An engine that answers everything, and has said something."""

    def __init__(self, engine: str, folder: Path, said: str, accelerator: Any = "cuda") -> None:
        super().__init__(engine, Site(folder, accelerator, folder), {})
        self._said = said

    def chat(self, question: str, **asked: Any) -> str:
        return "something"

    def log(self) -> str:
        return self._said


def test_the_sampler_is_the_one_that_the_engines_log_names(tmp_path: Path) -> None:
    figures = device_checks.sampler(Logging("vllm", tmp_path, VLLM))
    assert figures == {"sampler": "Using FlashInfer for top-p & top-k sampling."}
    sglang = Logging("sglang", tmp_path, SGLANG.replace("pytorch", "flashinfer"))
    assert device_checks.sampler(sglang) == {"sampler": "'sampling_backend': 'flashinfer'"}


@pytest.mark.parametrize(
    ("engine", "said", "why"),
    [("vllm", FELL_BACK, "no nvcc"), ("vllm", "", "nothing of it"), ("sglang", SGLANG, "pytorch")],
)
def test_another_sampler_than_flashinfers_fails_on_a_gpu_with_the_engines_reason(
    tmp_path: Path, engine: str, said: str, why: str
) -> None:
    with pytest.raises(AssertionError, match=why):
        device_checks.sampler(Logging(engine, tmp_path, said))
    assert device_checks.sampler(Logging(engine, tmp_path, said, "cpu"))


GRAPHS = {
    "vllm": "INFO [gpu_model_runner.py:6582] Graph capturing finished in 3 secs, took 0.21 GiB\n",
    "sglang": "[2026-01-01] Capture target decode CUDA graph end. elapsed=4.51 s, mem usage=0.22 GB.\n",
}


@pytest.mark.parametrize("engine", GRAPHS)
def test_graphs_are_seen_in_each_engines_log(tmp_path: Path, engine: str) -> None:
    assert device_checks.found_in(GRAPHS[engine], device_checks.GRAPHS[engine]).startswith(("Graph", "Capture"))
    with pytest.raises(AssertionError, match="captured all the same"):
        device_checks.graphs_off(Logging(engine, tmp_path, GRAPHS[engine]))
    with pytest.raises(AssertionError, match="no graph was captured"):
        device_checks.graphs_on(Logging(engine, tmp_path, "nothing\n"))
