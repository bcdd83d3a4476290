"""The plan: which servers are started, one after the other, and what is checked on each. What is worth most comes first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.gpu import device_checks, serving_checks
from tests.gpu.bench import Bench, NotPossibleError, Site
from tests.real_engine import ENGINES


@dataclass(frozen=True)
class Check:
    """``needs_gpu`` tells what for; empty: it is done in a rehearsal on the CPU, too."""

    name: str
    run: Callable[[Bench], dict[str, Any]]
    limit_s: float
    needs_gpu: str = ""


@dataclass(frozen=True)
class Stage:
    """One server. The first check starts it, and the others need it; whatever is left of it is killed in the end.

    ``needs_gpu`` tells, for an engine, what for; engines that it does not name are rehearsed on the CPU.
    """

    name: str
    model: Callable[[str, Site], dict[str, Any]]
    checks: tuple[Check, ...]
    needs_gpu: Mapping[str, str] = field(default_factory=dict)

    def reason_against(self, check: Check, engine: str, site: Site) -> str:
        """Why it cannot be done on this machine, or nothing."""
        return (self.needs_gpu.get(engine, "") or check.needs_gpu) if site.is_rehearsal else ""


#: The stage that is left out where no model is given.
GIVEN = "given"
#: The first start on a machine compiles kernels for its GPU.
_START_S = 240
_READY = Check("ready", serving_checks.ready, _START_S)
_WORDS = Check("words", serving_checks.words, 40)
_THROUGHPUT = Check("throughput", serving_checks.throughput, 40)
_LEFT = Check("nothing left", serving_checks.nothing_left, 70)


def _plain(engine: str, site: Site) -> dict[str, Any]:
    return site.model(engine)


def _given(engine: str, site: Site) -> dict[str, Any]:
    return site.model(engine, model_path=site.given)


def _sleeping(engine: str, site: Site) -> dict[str, Any]:
    switches = {
        "vllm": {"enable-sleep-mode": True},
        "sglang": {"enable-memory-saver": True, "enable-weights-cpu-backup": True},
    }
    return site.model(engine, engine_args=switches[engine])


def _adapted(engine: str, site: Site) -> dict[str, Any]:
    """Without CUDA graphs at the same time: one start less."""
    args = {
        "vllm": {"enforce-eager": True},
        "sglang": {"disable-cuda-graph": True, "lora-target-modules": ["down_proj"]},
    }
    return site.model(engine, engine_args=args[engine], enable_lora=True, max_lora_rank=8, max_loras=2)


def _other_start(engine: str, site: Site) -> dict[str, Any]:
    """The one that is not the default there."""
    return site.model(engine, start_method="spawn" if site.is_rehearsal else "fork")


def _embedding(engine: str, site: Site) -> dict[str, Any]:
    """SGLang pools BERT's vectors wrongly (0.5.21), so there the demo model is asked for vectors of its last token."""
    if engine == "sglang":
        return site.model(engine, engine_args={"is-embedding": True})
    if site.embedder is None:
        raise NotPossibleError("no embedding model is here: `make setup` brings one (EMBEDDER=its directory)")
    return site.model(engine, model_path=str(site.embedder), context_length=256)


def _beside(engine: str, site: Site) -> dict[str, Any]:
    """No line for each request on either side."""
    quiet = {"vllm": {"disable-uvicorn-access-log": True}, "sglang": {"log-level-http": "warning"}}
    return site.model(engine, engine_args=quiet[engine])


STAGES = (
    Stage("default", _plain, (
        _READY,
        _WORDS,
        Check("stream", serving_checks.stream, 30),
        Check("sampler", device_checks.sampler, 120),
        Check("graphs", device_checks.graphs_on, 40, needs_gpu="CUDA graphs"),
        Check("kill", serving_checks.kill, 150),
        Check("drain", serving_checks.drain, 100),
        _LEFT,
    )),
    Stage(GIVEN, _given, (
        _READY,
        Check("words", serving_checks.steady_words, 60),
        Check("stream", serving_checks.stream, 60),
        _THROUGHPUT,
        _LEFT,
    )),
    Stage("sleep", _sleeping, (
        _READY,
        Check("level 1", device_checks.sleep, 60),
        Check("level 2", device_checks.deep_sleep, 60),
        _LEFT,
    ), needs_gpu=dict.fromkeys(ENGINES, "it has no device memory to give up")),
    Stage("lora", _adapted, (
        _READY,
        _WORDS,
        Check("graphs off", device_checks.graphs_off, 40, needs_gpu="CUDA graphs"),
        Check("adapter", serving_checks.lora, 60),
        _LEFT,
    ), needs_gpu={"sglang": "on the CPU SGLang serves no adapters"}),
    Stage("start-method", _other_start, (
        Check("ready", device_checks.start_method, _START_S),
        _WORDS,
        _LEFT,
    )),
    Stage("embeddings", _embedding, (
        Check("ready", serving_checks.ready_alone, _START_S),
        Check("vectors", serving_checks.embeddings, 40),
        _LEFT,
    ), needs_gpu={"sglang": "on the CPU SGLang's vectors are wrong, and refused"}),
    Stage("own-server", _beside, (
        _READY,
        _THROUGHPUT,
        _LEFT,
        Check("own server", device_checks.own_server, _START_S),
    )),
)  # fmt: skip
