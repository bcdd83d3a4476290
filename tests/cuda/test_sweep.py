"""Every module of both engines imports on a card, but for what needs something that the image does not bring."""

import re
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tests.cuda.environments import ENGINES, run_inside

pytestmark = pytest.mark.cuda

#: Other hardware, and what is never imported by a server.
LEAVE_OUT = [
    "rocm|xpu|tpu|npu|hpu|musa|aiter|mindspore|flydsl",
    r"\bamd\b",
    r"_test\b|\btest_|\btests?\b|\bbench|__main__|_typeshed",
    "multimodal_gen",  # SGLang's server for images and video, another program
    r"third_party\.fmha_sm100",  # scripts with modules of their own beside them
]
# What the modules ask for that is not installed: hardware of others, extras of the image, the engines' own extras.
NOT_INSTALLED = {
    "vllm": "aiter cohere cohere_melody deep_ep flydsl helion kvcr lmcache modelexpress mori msgpack nixl_ep ray terratorch _typeshed",
    "sglang": "aibrix_kvcache aiter eic flydsl helion lmcache mlx mori ollama polars ray tensorcast wave_lang",
}
#: Modules that fail with other words → why that is right.
FAILS = {
    "vllm": {
        r"hf3fs_client$": "it compiles a client for the file system 3FS",
        r"modelexpress_engine$": "an extra of vLLM's",
        r"grpc_server$": "an extra of vLLM's",
        r"kernels\.helion": "an extra of vLLM's",
        r"parser\.cohere_command$": "an extra of vLLM's",
        r"fused_norm_gate$": "both copies of an operator are imported, which no model does",
        r"backends\.mla\.cutlass_mla$": "it asks the device for its multiprocessors; it is for sm_100",
        r"ray_executor_v2$": "ray is an extra",
    },
    "sglang": {
        r"checkpoint_engine_worker$": "an extra of SGLang's",
        r"storage\.(flexkv|nixl|simm)": "extras",
    },
}


@pytest.fixture(scope="module")
def swept() -> dict[str, Future[dict[str, Any]]]:
    with ThreadPoolExecutor(2) as pool:
        return {engine: pool.submit(_sweep, engine) for engine in ENGINES}


def _sweep(engine: str) -> dict[str, Any]:
    asked = {"card": (9, 0), "package": engine, "leave_out": LEAVE_OUT}
    ran = run_inside(engine, "-m", "tests.cuda.inside.sweep", card=(9, 0), asked=asked, timeout_s=1800)
    assert ran.code == 0, ran.words[-4000:]
    (told,) = ran.lines()
    return told


@pytest.mark.parametrize("engine", ENGINES)
def test_every_module_imports_but_for_what_is_not_installed(
    engine: str, swept: dict[str, Future[dict[str, Any]]], facts: dict[str, Any]
) -> None:
    told = swept[engine].result()
    facts[f"modules of {engine}"] = told["imported"]
    assert told["imported"] > 1500
    assert {name for name in told["missing"] if name not in NOT_INSTALLED[engine].split()} == set()
    unexplained = {
        module: words
        for module, words in told["failures"].items()
        if not any(re.search(pattern, module) for pattern in FAILS[engine])
    }
    assert unexplained == {}
