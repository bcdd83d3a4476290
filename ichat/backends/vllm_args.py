"""The unified arguments in vLLM's words. Pure: no engine is imported. The twin of sglang_args.py, line by line."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

from ichat.backends.engine_argv import ON_ONE_NODE, HubKernel, compose, to_json
from ichat.backends.flags import load_catalogue
from ichat.config.engine import Engine, Word
from ichat.config.schema import Model

#: Without a word from the user vLLM would take 92 % of the machine's memory on a CPU, or refuse to start when
#: that much is not free. Two GiB hold 18 000 tokens of a 7B model with grouped attention (bfloat16).
CPU_KV_CACHE_BYTES = 2 * 1024**3


def to_argv(
    model: Model, *, accelerator: Literal["cpu", "cuda"], api_key: str | None = None, version: str | None = None
) -> list[str]:
    """The exact command line for vLLM's own parser, without a program name.

    No address: ichat serves the app on a socket of its own. A key is only of use where the engine is reachable
    without the front; it would show in the engine's own log of its arguments. ``version`` is the engine's; the pinned
    one unless given.
    """
    key = [f"--api-key={api_key}"] if api_key else []
    return compose(engine(version), model, [*_defaults(model, accelerator), *key])


def environment(model: Model, accelerator: Literal["cpu", "cuda"]) -> dict[str, str]:  # noqa: ARG001  twin
    """Variables that vLLM's process needs; what the user has set in the environment goes before them."""
    quiet = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    inside = ON_ONE_NODE | {"VLLM_HOST_IP": "127.0.0.1"} if (model.nnodes or 1) == 1 else {}
    return quiet | inside


def hub_kernels(model: Model, accelerator: Literal["cpu", "cuda"]) -> tuple[HubKernel, ...]:  # noqa: ARG001  twin
    """Kernels that vLLM takes from the hub when it starts: none, its own wheel has them."""
    return ()


#: Flags that name further models, which may be the hub's.
FURTHER_MODELS = frozenset({"speculative_config"})


@cache
def engine(version: str | None = None) -> Engine:
    """vLLM as the resolver sees it; the pinned version unless another is given."""
    catalogue = load_catalogue("vllm", version)
    return Engine("vllm", "vLLM", catalogue, WORDS, RESERVED, EQUIVALENTS, RESERVED_VARIABLES, GONE)


def _defaults(model: Model, accelerator: str) -> list[str]:
    if accelerator != "cpu" or model.memory_fraction is not None:
        return []
    # A context that does not fit into the cache is shortened to what fits; without this vLLM refuses to start.
    return [f"--kv-cache-memory-bytes={CPU_KV_CACHE_BYTES}", "--max-model-len=auto"]


def _kv_events(config: dict[str, Any]) -> str:
    """vLLM wants the switch said, SGLang takes the publisher for it."""
    return to_json({"enable_kv_cache_events": config.get("publisher", "zmq") != "null"} | config)


WORDS = (
    Word("model_path", "--model"),
    Word("tokenizer_path", "--tokenizer"),
    Word("context_length", "--max-model-len"),
    Word("served_model_name", "--served-model-name"),
    Word("trust_remote_code", "--trust-remote-code"),
    Word("dtype", "--dtype"),
    Word("quantization", "--quantization"),
    Word(
        "kv_cache_dtype",
        "--kv-cache-dtype",
        convert=lambda v: {"bf16": "bfloat16"}.get(v, v),
        note="bf16 is written bfloat16",
    ),
    Word("revision", "--revision"),
    Word("chat_template", "--chat-template"),
    Word(
        "tool_call_parser",
        "--tool-call-parser",
        adds=lambda _value, _model: ["--enable-auto-tool-choice"],
        note="adds --enable-auto-tool-choice, without which vLLM ignores it; the parsers have vLLM's names",
    ),
    Word("reasoning_parser", "--reasoning-parser", note="the parsers have vLLM's names"),
    Word("tensor_parallel_size", "--tensor-parallel-size"),
    Word("pipeline_parallel_size", "--pipeline-parallel-size"),
    Word("data_parallel_size", "--data-parallel-size"),
    Word("max_running_requests", "--max-num-seqs", note="for each data-parallel copy"),
    Word(
        "memory_fraction",
        "--gpu-memory-utilization",
        note="the whole budget: weights, KV cache, activations and CUDA graphs; on a CPU a share of its memory",
    ),
    Word("seed", "--seed"),
    Word("load_format", "--load-format"),
    Word("download_dir", "--download-dir"),
    Word("enable_prefix_caching", "--enable-prefix-caching"),
    Word(
        "log_level",
        "--uvicorn-log-level",
        is_same=False,
        adds=lambda value, _model: [f"--log-level={value.upper()}"],
        note="sets --log-level as well",
    ),
    Word("nnodes", "--nnodes"),
    Word("node_rank", "--node-rank"),
    Word(
        "dist_init_addr",
        "--master-addr",
        is_same=False,
        convert=lambda v: v.rpartition(":")[0],
        adds=lambda value, _model: [f"--master-port={value.rpartition(':')[2]}"],
        note="split into --master-addr and --master-port",
    ),
    Word(
        "kv_events_config",
        "--kv-events-config",
        is_same=False,
        convert=_kv_events,
        note="adds enable_kv_cache_events, without which vLLM publishes nothing",
    ),
    Word("enable_lora", "--enable-lora"),
    Word(
        "lora_paths",
        "--lora-modules",
        adds=lambda _value, model: ["--enable-lora"] if model.enable_lora is None else [],
        note="adds --enable-lora, without which vLLM ignores them",
    ),
    Word("max_loras", "--max-loras"),
    Word("max_lora_rank", "--max-lora-rank"),
)

_SOCKET = "ichat serves the engine on a socket of its own; the public address is server.host and server.port"
_TLS = "the engine is reached over a unix socket only; put TLS in front of ichat"

_WEB = "web pages are allowed at the public port: set server.cors_origins"

RESERVED = {
    "--allow-credentials": _WEB,
    "--allowed-headers": _WEB,
    "--allowed-methods": _WEB,
    "--allowed-origins": _WEB,
    "--api-key": "clients are checked at the public port: set server.api_key",
    "--api-server-count": "ichat runs the server itself, in one process",
    "--config": "only ichat's own configuration file is read; put the flags under engine_args",
    "--data-parallel-supervisor-port": "ichat's launcher supervises the engine",
    "--grpc": "ichat serves HTTP",
    "--grpc-port": "ichat serves HTTP",
    "--headless": "ichat serves the first machine of several only; start vLLM itself on the others",
    "--host": _SOCKET,
    "--port": _SOCKET,
    "--root-path": "the engine is asked at the root; let the proxy that adds a prefix remove it",
    "--shutdown-timeout": "how ichat stops is set by timeouts.drain_s",
    "--ssl-ca-certs": _TLS,
    "--ssl-cert-reqs": _TLS,
    "--ssl-certfile": _TLS,
    "--ssl-ciphers": _TLS,
    "--ssl-keyfile": _TLS,
    "--enable-ssl-refresh": _TLS,
    "--uds": _SOCKET,
}

#: Variables that vLLM reads by itself, and that would do there what is ichat's.
RESERVED_VARIABLES = {
    "VLLM_API_KEY": "vLLM would ask for this key behind the front, which has none. Set ICHAT_API_KEY",
}

_ALWAYS = "vLLM does so by itself now: leave it out"
_SPECULATIVE = "it is a key of --speculative-config now"
_OVERRIDE = "it is a key of --hf-overrides now"

#: Flags of earlier versions, with what became of them.
GONE = {
    "--compilation-level": "use -O or --compilation-config",
    "--cuda-graph-sizes": "use --cudagraph-capture-sizes",
    "--device": "ichat knows the device from the image: leave it out",
    "--disable-async-output-proc": "use --no-async-scheduling",
    "--disable-log-requests": "requests are not logged unless --enable-log-requests is given: leave it out",
    "--enable-multimodal-encoder-data-parallel": "use --mm-encoder-tp-mode data",
    "--enable-reasoning": "--reasoning-parser alone switches it on: leave it out",
    "--guided-decoding-backend": "use --structured-outputs-config '{\"backend\": …}'",
    "--guided-decoding-disable-any-whitespace": "use --structured-outputs-config '{\"disable_any_whitespace\": true}'",
    "--guided-decoding-disable-fallback": "there is no fallback any more: leave it out",
    "--max-seq-len-to-capture": "use --max-cudagraph-capture-size",
    "--mm-preprocessor-cache-size": "use --mm-processor-cache-gb",
    "--disable-mm-preprocessor-cache": "use --mm-processor-cache-gb 0",
    "--multi-step-stream-outputs": _ALWAYS,
    "--num-lookahead-slots": _ALWAYS,
    "--num-scheduler-steps": _ALWAYS,
    "--num-speculative-tokens": _SPECULATIVE,
    "--override-pooler-config": "use --pooler-config",
    "--preemption-mode": _ALWAYS,
    "--rope-scaling": _OVERRIDE,
    "--rope-theta": _OVERRIDE,
    "--scheduler-delay-factor": _ALWAYS,
    "--speculative-draft-tensor-parallel-size": _SPECULATIVE,
    "--speculative-model": _SPECULATIVE,
    "--swap-space": "vLLM computes anew instead of swapping: leave it out",
    "--task": "use --runner pooling for embeddings, scores and classes, and leave it out for generate",
    "--use-v2-block-manager": _ALWAYS,
    "--worker-use-ray": "ichat runs the engine in its own process: leave it out",
}

#: Flags that ichat does not unify, with what SGLang has for the same purpose.
EQUIVALENTS = {
    "--attention-backend": "--attention-backend, with SGLang's own names",
    "--cpu-offload-gb": "--cpu-offload-gb",
    "--disable-custom-all-reduce": "--disable-custom-all-reduce",
    "--distributed-timeout-seconds": "--dist-timeout",
    "--enable-expert-parallel": "--ep-size, with the number of ranks",
    "--enable-log-requests": "--log-requests",
    "--enable-sleep-mode": "--enable-memory-saver",
    "--enforce-eager": "--disable-cuda-graph",
    "--generation-config": "--sampling-defaults, which says only where defaults come from",
    "--hf-overrides": "--json-model-override-args",
    "--kv-cache-memory-bytes": "--max-total-tokens, in tokens instead of bytes",
    "--limit-mm-per-prompt": "--limit-mm-data-per-request",
    "--long-prefill-token-threshold": "--chunked-prefill-size",
    "--max-num-batched-tokens": "--chunked-prefill-size for one step of a prompt, --max-prefill-tokens for a batch",
    "--model-impl": "--model-impl",
    "--override-generation-config": "--preferred-sampling-params",
    "--runner": "--is-embedding in place of --runner pooling",
    "--scheduling-policy": "--schedule-policy",
    "--speculative-config": "--speculative-algorithm and its companions",
    "--tokenizer-mode": "--tokenizer-mode",
}
