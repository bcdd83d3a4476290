"""What differs between the versions of SGLang that ichat serves, and what is true of these versions only.

Each entry names the versions that need it. It goes when the range below begins after them. Its twin is
vllm_compat.py. Nothing of SGLang is imported before a function is called.
"""

from __future__ import annotations

from typing import Any

from ichat.backends.engine_versions import SupportedVersions, find_first, first_of

SUPPORTED = SupportedVersions("sglang", "SGLang", ("sglang",), since="0.5.21", before="0.5.24")

#: The kernels that SGLang takes on a CPU by default are not published for it (up to 0.5.23).
CPU_ARGUMENTS = ("--device=cpu", "--attention-backend=torch_native", "--model-impl=transformers")


def launched_parts(launched: tuple[Any, ...]) -> tuple[Any, Any, Any, Any]:
    """(tokenizer manager, template manager, what the schedulers told, watchdog) of ``_launch_subprocesses``.

    Releases append values to its tuple (five by 0.5.10, six since 0.5.20), so only its beginning is read.
    """
    tokenizer_manager, template_manager, _, scheduled, watchdog = launched[:5]
    return tokenizer_manager, template_manager, scheduled, watchdog


def count_responses(app: Any) -> None:
    """Have the app count requests and responses by path and status, as SGLang's own server does.

    Up to 0.5.22 the server adds a middleware before it starts; from 0.5.23 on the app's lifespan counts by itself.
    """
    add_middleware = find_first("sglang.srt.utils.common:add_prometheus_track_response_middleware")
    if add_middleware is not None:
        add_middleware(app)


def refusal_on_the_cpu(architectures: list[str], resolved: Any) -> str | None:
    """What SGLang would do wrong on a CPU with these arguments (measured with 0.5.21 and 0.5.23), and what to do.

    It pools BERT's vectors wrongly, whatever the model says, and pins memory for LoRA, which needs CUDA.
    """
    is_generation_model = first_of("sglang.srt.configs.model_config:is_generation_model")
    if not is_generation_model(architectures, resolved.is_embedding):
        return "on the CPU its vectors of an embedding model are wrong. Serve this model with backend: vllm"
    if resolved.enable_lora:
        return "on the CPU it cannot serve adapters (LoRA). Serve this model with backend: vllm"
    return None


def load_of(reader: Any, rank: int) -> Any:
    """What a rank's scheduler told last of its load (a ``LoadSnapshot``); None when there is nothing, or it writes.

    The reader's public functions wait for a lock that a stopped scheduler may hold for ever (0.5.21 to 0.5.23); without
    it a half-written snapshot is seen as none. Of several nodes the reader behind is meant.
    """
    local = getattr(reader, "_shm_reader", reader)
    return local._read_slot(rank) if local is not None and local.mmap is not None else None


def open_loads(reader: Any) -> Any:
    """The reader, ready for ``load_of``: by itself it opens the schedulers' file when it is first asked."""
    local = getattr(reader, "_shm_reader", reader)
    if local is not None:
        local._attach()
    return reader


def is_half_loaded(words: str) -> bool:
    """Whether an update of weights that failed has left the engine with some of the new ones.

    Half way it reads the weights again "from the original path", which by then is the new one (up to 0.5.23).
    """
    return "Rolling back" in words
