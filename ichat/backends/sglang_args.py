"""The unified arguments in SGLang's words. Pure: no engine is imported. The twin of vllm_args.py, line by line."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

from ichat.backends import sglang_compat
from ichat.backends.engine_argv import ON_ONE_NODE, HubKernel, compose, own_dests, to_json
from ichat.backends.flags import load_catalogue
from ichat.config.engine import Engine, Word
from ichat.config.schema import Model

#: Without a word from the user SGLang would take most of the machine's memory on a CPU. So many tokens are about
#: a GiB for a 7B model with grouped attention (bfloat16); a context longer than that still fits once.
CPU_TOTAL_TOKENS = 16_384

#: memory_fraction is the whole budget; SGLang's own number leaves out activations and CUDA graphs. SGLang itself
#: keeps between a tenth (large cards) and a quarter (small ones) for them; a tenth of the budget is kept here.
STATIC_SHARE = 0.9


def to_argv(
    model: Model, *, accelerator: Literal["cpu", "cuda"], api_key: str | None = None, version: str | None = None
) -> list[str]:
    """The exact command line for SGLang's own parser, without a program name.

    No address: ichat serves the app on a socket of its own. A key is only of use where the engine is reachable
    without the front; it would show in the engine's own log of its arguments. ``version`` is the engine's; the pinned
    one unless given.
    """
    key = [f"--api-key={api_key}"] if api_key else []
    return compose(engine(version), model, [*_defaults(model, accelerator, version), *key])


def environment(model: Model, accelerator: Literal["cpu", "cuda"]) -> dict[str, str]:  # noqa: ARG001  twin
    """Variables that SGLang's process needs; what the user has set in the environment goes before them."""
    # Its own crash path would dump stacks for a minute while clients wait; ichat's monitor has ended them by then.
    quick = {"SGLANG_PYSPY_DUMP_BEFORE_CRASH": "0", "SGLANG_CUDA_COREDUMP_BEFORE_CRASH": "0"}
    quiet = {"DO_NOT_TRACK": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    inside = ON_ONE_NODE if (model.nnodes or 1) == 1 else {}
    return quick | quiet | inside


def hub_kernels(model: Model, accelerator: Literal["cpu", "cuda"]) -> tuple[HubKernel, ...]:  # noqa: ARG001  twin
    """Kernels that SGLang takes from the hub when it starts (0.5.21, flash_attention_v3.py), on Ampere and Hopper.

    Without them it takes slower ones of its own, with a warning.
    """
    return (HubKernel("kernels-community/sgl-flash-attn3", "v1"),) if accelerator == "cuda" else ()


#: Flags that name further models, which may be the hub's.
FURTHER_MODELS = frozenset({"speculative_draft_model_path"})


@cache
def engine(version: str | None = None) -> Engine:
    """SGLang as the resolver sees it; the pinned version unless another is given."""
    catalogue = load_catalogue("sglang", version)
    return Engine("sglang", "SGLang", catalogue, WORDS, RESERVED, EQUIVALENTS, RESERVED_VARIABLES, GONE)


def _defaults(model: Model, accelerator: str, version: str | None) -> list[str]:
    # vLLM always has metrics. Without the second flag an idle scheduler keeps a whole core busy; the first token comes
    # as soon with it (docs/engines.md).
    everywhere = ["--enable-metrics", "--sleep-on-idle"]
    if accelerator != "cpu":
        return everywhere
    cpu = [*sglang_compat.CPU_ARGUMENTS]
    if model.memory_fraction is None and "mem_fraction_static" not in own_dests(engine(version), model):
        cpu.append(f"--max-total-tokens={_total_tokens(model.context_length)}")
    return [*everywhere, *cpu]


def _total_tokens(context_length: int | None) -> int:
    """Room for four requests of full length, within bounds, but always for one."""
    length = context_length or CPU_TOTAL_TOKENS
    return max(length, min(4 * length, CPU_TOTAL_TOKENS))


def _kv_events(config: dict[str, Any]) -> str:
    """SGLang takes the publisher for the switch, vLLM wants it said."""
    is_on = config.get("enable_kv_cache_events", True)
    rest = {k: v for k, v in config.items() if k != "enable_kv_cache_events"}
    return to_json({"publisher": "zmq"} | rest if is_on else rest | {"publisher": "null"})


WORDS = (
    Word("model_path", "--model-path"),
    Word("tokenizer_path", "--tokenizer-path"),
    Word("context_length", "--context-length"),
    Word("served_model_name", "--served-model-name", note="must not contain a colon, SGLang's mark for an adapter"),
    Word("trust_remote_code", "--trust-remote-code"),
    Word("dtype", "--dtype"),
    Word("quantization", "--quantization"),
    Word(
        "kv_cache_dtype",
        "--kv-cache-dtype",
        convert=lambda v: {"fp8": "fp8_e4m3"}.get(v, v),
        note="fp8 is written fp8_e4m3",
    ),
    Word("revision", "--revision"),
    Word("chat_template", "--chat-template", note="may also name one of SGLang's built-in templates"),
    Word("tool_call_parser", "--tool-call-parser", note="the parsers have SGLang's names"),
    Word("reasoning_parser", "--reasoning-parser", note="the parsers have SGLang's names"),
    Word("tensor_parallel_size", "--tp-size"),
    Word("pipeline_parallel_size", "--pp-size"),
    Word("data_parallel_size", "--dp-size"),
    Word(
        "max_running_requests",
        "--max-running-requests",
        note="for each data-parallel copy; with --enable-dp-attention for all of them together",
    ),
    Word(
        "memory_fraction",
        "--mem-fraction-static",
        is_same=False,
        convert=lambda v: round(v * STATIC_SHARE, 3),
        note=f"nine tenths of it: SGLang's number covers weights and KV cache only, {1 - STATIC_SHARE:.0%} stay for "
        "activations and CUDA graphs. On cards under 40 GB SGLang itself keeps up to a quarter: "
        "lower it there, or set mem-fraction-static under engine_args",
    ),
    Word("seed", "--random-seed"),
    Word("load_format", "--load-format"),
    Word("download_dir", "--download-dir"),
    Word(
        "enable_prefix_caching",
        "--disable-radix-cache",
        is_same=False,
        convert=lambda v: not v,
        note="on by default; false is written --disable-radix-cache",
    ),
    Word("log_level", "--log-level", note="covers the HTTP server too"),
    Word("nnodes", "--nnodes"),
    Word("node_rank", "--node-rank"),
    Word("dist_init_addr", "--dist-init-addr"),
    Word(
        "kv_events_config",
        "--kv-events-config",
        is_same=False,
        convert=_kv_events,
        note="the switch enable_kv_cache_events becomes the publisher zmq or null",
    ),
    Word(
        "enable_lora",
        "--enable-lora",
        convert=lambda v: v or None,
        note="false is SGLang's default without lora_paths, and has no word",
    ),
    Word("lora_paths", "--lora-paths"),
    Word("max_loras", "--max-loras-per-batch"),
    Word("max_lora_rank", "--max-lora-rank"),
)

_SOCKET = "ichat serves the engine on a socket of its own; the public address is server.host and server.port"
_TLS = "the engine is reached over a unix socket only; put TLS in front of ichat"

RESERVED = {
    "--admin-api-key": "clients are checked at the public port: set server.api_key",
    "--api-key": "clients are checked at the public port: set server.api_key",
    "--config": "only ichat's own configuration file is read; put the flags under engine_args",
    "--enable-http2": "the front speaks HTTP/1.1 to the engine",
    "--encoder-only": "an encoder has no server that ichat can run",
    "--fastapi-root-path": "the engine is asked at the root; let the proxy that adds a prefix remove it",
    "--grpc-mode": "ichat serves HTTP",
    "--grpc-port": "ichat serves HTTP",
    "--host": _SOCKET,
    "--port": _SOCKET,
    "--sidecar": "ichat's launcher is the only one that starts processes",
    "--sidecar-args": "ichat's launcher is the only one that starts processes",
    "--smg-grpc-mode": "ichat serves HTTP",
    "--smg-http-sidecar-port": "ichat serves HTTP",
    "--ssl-ca-certs": _TLS,
    "--ssl-certfile": _TLS,
    "--ssl-keyfile": _TLS,
    "--ssl-keyfile-password": _TLS,
    "--enable-ssl-refresh": _TLS,
    "--tokenizer-worker-num": "ichat runs the server itself, in one process",
    "--use-ray": "ichat runs the engine in its own process",
}

#: Variables that SGLang reads by itself, and that would do there what is ichat's.
RESERVED_VARIABLES = {
    "SGLANG_GRPC_PORT": "ichat serves HTTP",
}

_BY_ITSELF = "SGLang does so by itself now: leave it out"

#: Flags of earlier versions, with what became of them.
GONE = {
    "--disable-disk-cache": "use --disable-outlines-disk-cache",
    "--disable-flashinfer": "use --attention-backend",
    "--disable-flashinfer-sampling": "use --sampling-backend pytorch",
    "--enable-deepep-moe": "use --moe-a2a-backend deepep",
    "--enable-ep-moe": "use --ep-size",
    "--enable-flashinfer": "use --attention-backend flashinfer",
    "--enable-flashinfer-mla": "use --attention-backend flashinfer",
    "--enable-flashinfer-cutlass-moe": "use --moe-runner-backend flashinfer_cutlass",
    "--enable-llama4-multimodal": "use --enable-multimodal",
    "--enable-mla": _BY_ITSELF,
    "--enable-overlap-schedule": _BY_ITSELF,
    "--enable-triton-kernel-moe": "use --moe-runner-backend triton_kernel",
    "--schedule-heuristic": "use --schedule-policy",
}

#: Flags that ichat does not unify, with what vLLM has for the same purpose.
EQUIVALENTS = {
    "--attention-backend": "--attention-backend, with vLLM's own names",
    "--chunked-prefill-size": "--max-num-batched-tokens",
    "--cpu-offload-gb": "--cpu-offload-gb",
    "--disable-cuda-graph": "--enforce-eager",
    "--disable-custom-all-reduce": "--disable-custom-all-reduce",
    "--dist-timeout": "--distributed-timeout-seconds",
    "--enable-memory-saver": "--enable-sleep-mode",
    "--ep-size": "--enable-expert-parallel",
    "--is-embedding": "--runner pooling",
    "--json-model-override-args": "--hf-overrides",
    "--limit-mm-data-per-request": "--limit-mm-per-prompt",
    "--log-requests": "--enable-log-requests",
    "--max-prefill-tokens": "--max-num-batched-tokens",
    "--max-total-tokens": "--kv-cache-memory-bytes, in bytes instead of tokens",
    "--model-impl": "--model-impl",
    "--preferred-sampling-params": "--override-generation-config",
    "--sampling-defaults": "--generation-config",
    "--schedule-policy": "--scheduling-policy",
    "--speculative-algorithm": "--speculative-config",
    "--tokenizer-mode": "--tokenizer-mode",
}
