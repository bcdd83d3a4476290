"""Every unified argument and every kind of flag, as the engines' own parsers understand what ichat gives them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ichat.backends.engines import ARGS
from ichat.config.schema import Model, Unified
from tests.real_versions import IMPORTABLE, engine_of
from tests.worker_process import python_of

pytestmark = pytest.mark.engine

ROOT = Path(__file__).resolve().parents[2]

# Unified arguments → what vLLM's parser makes of them → what SGLang's parser makes of them.
TABLE: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ({"model_path": "/models/a"}, {"model": "/models/a"}, {"model_path": "/models/a"}),
    ({"tokenizer_path": "/t"}, {"tokenizer": "/t"}, {"tokenizer_path": "/t"}),
    ({"context_length": 4096}, {"max_model_len": 4096}, {"context_length": 4096}),
    ({"served_model_name": "a/b"}, {"served_model_name": ["a/b"]}, {"served_model_name": "a/b"}),
    ({"aliases": ("b", "c")}, {"served_model_name": ["m", "b", "c"]}, {"served_model_name": "m"}),
    ({"trust_remote_code": True}, {"trust_remote_code": True}, {"trust_remote_code": True}),
    ({"trust_remote_code": False}, {"trust_remote_code": False}, {"trust_remote_code": False}),
    ({"dtype": "bfloat16"}, {"dtype": "bfloat16"}, {"dtype": "bfloat16"}),
    ({"quantization": "awq"}, {"quantization": "awq"}, {"quantization": "awq"}),
    ({"kv_cache_dtype": "fp8_e5m2"}, {"kv_cache_dtype": "fp8_e5m2"}, {"kv_cache_dtype": "fp8_e5m2"}),
    ({"kv_cache_dtype": "fp8"}, {"kv_cache_dtype": "fp8"}, {"kv_cache_dtype": "fp8_e4m3"}),
    ({"kv_cache_dtype": "bf16"}, {"kv_cache_dtype": "bfloat16"}, {"kv_cache_dtype": "bf16"}),
    ({"revision": "main"}, {"revision": "main"}, {"revision": "main"}),
    ({"chat_template": "{{ messages }}"}, {"chat_template": "{{ messages }}"}, {"chat_template": "{{ messages }}"}),
    (
        {"tool_call_parser": "mistral"},
        {"tool_call_parser": "mistral", "enable_auto_tool_choice": True},
        {"tool_call_parser": "mistral"},
    ),
    ({"reasoning_parser": "qwen3"}, {"reasoning_parser": "qwen3"}, {"reasoning_parser": "qwen3"}),
    ({"tensor_parallel_size": 2}, {"tensor_parallel_size": 2}, {"tp_size": 2}),
    ({"pipeline_parallel_size": 2}, {"pipeline_parallel_size": 2}, {"pp_size": 2}),
    ({"data_parallel_size": 2}, {"data_parallel_size": 2}, {"dp_size": 2}),
    ({"max_running_requests": 7}, {"max_num_seqs": 7}, {"max_running_requests": 7}),
    ({"memory_fraction": 0.5}, {"gpu_memory_utilization": 0.5}, {"mem_fraction_static": 0.45}),
    ({"seed": -3}, {"seed": -3}, {"random_seed": -3}),
    ({"load_format": "dummy"}, {"load_format": "dummy"}, {"load_format": "dummy"}),
    ({"download_dir": "/d"}, {"download_dir": "/d"}, {"download_dir": "/d"}),
    ({"enable_prefix_caching": True}, {"enable_prefix_caching": True}, {"disable_radix_cache": False}),
    ({"enable_prefix_caching": False}, {"enable_prefix_caching": False}, {"disable_radix_cache": True}),
    ({"log_level": "error"}, {"log_level": "ERROR", "uvicorn_log_level": "error"}, {"log_level": "error"}),
    (
        {"nnodes": 2, "node_rank": 0, "dist_init_addr": "10.0.0.1:5000"},
        {"nnodes": 2, "node_rank": 0, "master_addr": "10.0.0.1", "master_port": 5000},
        {"nnodes": 2, "node_rank": 0, "dist_init_addr": "10.0.0.1:5000"},
    ),
    (
        {"kv_events_config": {"endpoint": "tcp://*:1"}},
        {"kv_events_config": {"enable_kv_cache_events": True, "publisher": "zmq", "endpoint": "tcp://*:1"}},
        {"kv_events_config": '{"publisher":"zmq","endpoint":"tcp://*:1"}'},
    ),
    (
        {"kv_events_config": {"enable_kv_cache_events": False}},
        {"kv_events_config": {"enable_kv_cache_events": False, "publisher": "null"}},
        {"kv_events_config": '{"publisher":"null"}'},
    ),
    ({"enable_lora": True, "max_lora_rank": 64}, {"enable_lora": True, "max_lora_rank": 64}, {"max_lora_rank": 64}),
    ({"enable_lora": True, "max_loras": 3}, {"max_loras": 3}, {"enable_lora": True, "max_loras_per_batch": 3}),
    ({"enable_lora": False}, {"enable_lora": False}, {"enable_lora": None}),
    (
        {"lora_paths": ("a=/x", "b=/y")},
        {"enable_lora": True, "lora_modules": [{"name": "a", "path": "/x"}, {"name": "b", "path": "/y"}]},
        {"lora_paths": ["a=/x", "b=/y"]},
    ),
]

# Words of an engine's own, which pass through as they are.
VERBATIM: dict[str, list[tuple[list[str], dict[str, Any]]]] = {
    "vllm": [
        (["--enforce-eager"], {"enforce_eager": True}),
        (["--no-enforce-eager"], {"enforce_eager": False}),
        (["-O3"], {"optimization_level": "3"}),
        (["-O", "1"], {"optimization_level": "1"}),
        (["-dcp", "2"], {"decode_context_parallel_size": 2}),
        (["--max-num-batched-tokens", "8k"], {"max_num_batched_tokens": 8000}),
        (["--default-chat-template-kwargs.a", "1"], {"default_chat_template_kwargs": {"a": 1}}),
        (["--middleware", "a.b", "--middleware=c.d"], {"middleware": ["a.b", "c.d"]}),
        (["--cudagraph-capture-sizes", "1", "2", "4"], {"cudagraph_capture_sizes": [1, 2, 4]}),
    ],
    "sglang": [
        (["--disable-cuda-graph"], {"disable_cuda_graph": True}),
        (["--mem-fraction-static", "0.7"], {"mem_fraction_static": 0.7}),
        (["--tp", "2", "--ep-size=2"], {"tp_size": 2, "ep_size": 2}),
        (["--no-dllm-fdfo"], {"dllm_fdfo": False}),
        (["--cuda-graph-bs-decode", "1", "2", "4"], {"cuda_graph_bs_decode": [1, 2, 4]}),
    ],
}


def model(backend: str, **settings: Any) -> Model:
    return Model(**{"name": "m", "model_path": "/models/a", "backend": backend} | settings)


def rows(name: str) -> list[tuple[list[str], dict[str, Any]]]:
    """Command lines and what the parser must make of them."""
    backend, version = engine_of(name), name.partition("-")[2] or None
    args, found = ARGS[backend], []
    for settings, vllm, sglang in TABLE:
        argv = args.to_argv(model(backend, **settings), accelerator="cuda", version=version)
        found.append((argv, vllm if backend == "vllm" else sglang))
    for words, expected in VERBATIM[backend]:
        argv = args.to_argv(model(backend, extra_argv=tuple(words)), accelerator="cuda", version=version)
        found.append((argv, expected))
    for flag in args.engine(version).catalogue.flags:  # every yes-or-no flag, both ways
        for value in (True, False) if flag.kind == "toggle" or (flag.kind, flag.default) == ("switch", False) else ():
            companions = COMPANIONS.get(flag.dest, {}) if value else {}
            argv = args.to_argv(
                model(backend, engine_args={flag.key: value} | companions), accelerator="cuda", version=version
            )
            found.append((argv, {flag.dest: value}))
    found.append((args.to_argv(model(backend), accelerator="cpu", api_key="k", version=version), ON_A_CPU[backend]))
    found.append(
        (args.to_argv(model(backend, context_length=512), accelerator="cpu", version=version), SHORT_CONTEXT[backend])
    )
    return found


# What vLLM wants to be told as well when one of these is on.
COMPANIONS: dict[str, dict[str, Any]] = {
    "enable_auto_tool_choice": {"tool-call-parser": "hermes"},
    "enable_log_outputs": {"enable-log-requests": True},
    "data_parallel_multi_port_external_lb": {"data-parallel-size": 2, "data-parallel-size-local": 2},
}
ON_A_CPU: dict[str, dict[str, Any]] = {
    "vllm": {"kv_cache_memory_bytes": 2 * 1024**3, "max_model_len": -1, "api_key": ["k"]},
    "sglang": {
        "device": "cpu",
        "attention_backend": "torch_native",
        "model_impl": "transformers",
        "max_total_tokens": 16384,
        "enable_metrics": True,
        "api_key": "k",
    },
}
SHORT_CONTEXT: dict[str, dict[str, Any]] = {"vllm": {"max_model_len": 512}, "sglang": {"max_total_tokens": 2048}}


@pytest.fixture(scope="module", params=IMPORTABLE)
def answer(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """What the engine's own parser made of all rows; the engine is imported once."""
    backend = request.param
    question = [{"argv": argv, "wants": list(expected)} for argv, expected in rows(backend)]
    done = subprocess.run(
        [python_of(backend), Path(__file__).with_name("parse_argv.py")],
        env=os.environ | {"VLLM_TARGET_DEVICE": "cpu"},  # vLLM without its kernels does not know what machine this is
        input=json.dumps(question),
        capture_output=True,
        check=False,
        text=True,
        timeout=300,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return backend, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.timeout(300)
def test_the_parser_understands_what_ichat_says(answer: tuple[str, dict[str, Any]]) -> None:
    backend, said = answer
    wrong = [
        (argv, expected, got)
        for (argv, expected), got in zip(rows(backend), said["parsed"], strict=True)
        if not _holds(expected, got)
    ]
    assert wrong == []


@pytest.mark.timeout(300)
def test_the_committed_flags_are_those_of_the_engine(answer: tuple[str, dict[str, Any]]) -> None:
    backend, said = answer
    committed = (ROOT / "ichat/backends/flags" / f"{backend}.json").read_text()
    assert said["flags"] == committed, "run `make flags`, then look at what changed"


def test_every_unified_argument_is_in_the_table() -> None:
    asked = {name for settings, _, _ in TABLE for name in settings}
    assert asked == set(Unified.model_fields) | {"aliases"}  # which reach vLLM as further served names


def _holds(expected: Any, got: Any) -> bool:
    """Every expected field has its value; an object of the engine may have more fields."""
    if isinstance(expected, dict) and isinstance(got, dict):
        return all(key in got and _holds(value, got[key]) for key, value in expected.items())
    if isinstance(expected, list) and isinstance(got, list) and len(expected) == len(got):
        return all(_holds(e, g) for e, g in zip(expected, got, strict=True))
    return bool(expected == got) and isinstance(expected, bool) == isinstance(got, bool)
