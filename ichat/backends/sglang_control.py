"""Commands to SGLang, by the methods that its own HTTP routes call. Its twin is vllm_control.py.

Neither imports its engine: what they need of it they are given.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Literal

from ichat.backends import sglang_compat
from ichat.backends.engine_control import (
    CommandError,
    EngineControl,
    Mode,
    NotSupportedError,
    RefusedError,
    Tag,
    WrongArgumentsError,
)

_POLL_S = 0.02
#: SGLang's words for what it gives up. Its graphs are of no use without the cache.
_REGIONS: dict[Tag, list[str]] = {"weights": ["weights"], "kv_cache": ["kv_cache", "cuda_graph"]}


class SGLangControl(EngineControl):
    """``manager`` is the TokenizerManager, ``requests`` the module of its requests, ``args`` the resolved arguments."""

    def __init__(
        self, manager: Any, requests: Any, args: Any, accelerator: Literal["cpu", "cuda"], in_flight: Callable[[], int]
    ) -> None:
        self._manager, self._requests, self._args, self._accelerator = manager, requests, args, accelerator
        self._in_flight = in_flight
        self._name = manager.served_model_name

    # ---- rest ---------------------------------------------------------------------------------------------

    def check_sleep(self, level: int) -> None:
        if self._accelerator == "cpu":
            raise NotSupportedError("sleep: on the CPU SGLang has no device memory to give up. Use pause.")
        if not self._args.enable_memory_saver:
            raise NotSupportedError(
                f"sleep: level {level} needs SGLang's memory saver. Set engine_args.enable-memory-saver: true"
                " and reload."
            )
        if level == 1 and not self._args.enable_weights_cpu_backup:
            raise NotSupportedError(
                "sleep: level 1 needs a copy of the weights in host memory. Set engine_args.enable-weights-cpu-backup:"
                " true and reload, or use level 2, which reads them from disk again."
            )

    async def sleep(self, level: int) -> None:
        del level  # where the weights come from at the end is the caller's business
        await self._manager.release_memory_occupation(
            self._requests.ReleaseMemoryOccupationReqInput(tags=[*_REGIONS["kv_cache"], *_REGIONS["weights"]])
        )

    async def wake_up(self, tags: frozenset[Tag], *, reload_from: str | None) -> None:
        for tag in sorted(tags, reverse=True):  # weights first
            request = self._requests.ResumeMemoryOccupationReqInput(tags=_REGIONS[tag])
            await self._manager.resume_memory_occupation(request)
            if tag == "weights" and reload_from is not None:
                await self._load(reload_from, flush=False)

    async def pause(self, mode: Mode) -> None:
        if mode == "abort":
            await self._manager.pause_generation(self._requests.PauseGenerationReqInput(mode="abort"))
        while mode == "wait" and self._in_flight():
            await asyncio.sleep(_POLL_S)
        # "in_place" leaves the scheduler as it stands, so that requests go on where they were; after "retract" it is
        # idle, which sleeping and other weights need.
        how = "in_place" if mode == "keep" else "retract"
        await self._manager.pause_generation(self._requests.PauseGenerationReqInput(mode=how))

    async def resume(self) -> None:
        request = self._requests.ContinueGenerationReqInput(torch_empty_cache=self._accelerator == "cuda")
        await self._manager.continue_generation(request)

    # ---- weights, caches, adapters ------------------------------------------------------------------------

    async def update_weights(self, path: str) -> None:
        await self._load(path, flush=True)

    async def _load(self, path: str, *, flush: bool) -> None:
        request = self._requests.UpdateWeightFromDiskReqInput(model_path=path, flush_cache=flush)
        is_done, words, _ = await self._manager.update_weights_from_disk(request)
        # It serves under the path from now on, if it is let.
        self._manager.served_model_name = self._name
        if is_done:
            return
        raise (CommandError if sglang_compat.is_half_loaded(words) else RefusedError)(
            f"update_weights: SGLang: {words}"
        )

    async def flush_cache(self) -> None:
        was_paused = self._manager.is_pause
        answer = await self._manager.flush_cache()
        if not answer.success:
            # It flushes only when idle: requests go back to the queue, and are computed again.
            await self._manager.pause_generation(self._requests.PauseGenerationReqInput(mode="retract"))
            try:
                answer = await self._manager.flush_cache()
            finally:
                if not was_paused:
                    await self.resume()
        if not answer.success:
            raise RefusedError(
                f"flush_cache: SGLang: {answer.message or 'the cache is in use'}. Ask again in a moment."
            )

    async def load_lora(self, name: str, path: str) -> None:
        self._need_lora("load_lora")
        request = self._requests.LoadLoRAAdapterReqInput(lora_name=name, lora_path=path)
        _check(await self._manager.load_lora_adapter(request))

    async def unload_lora(self, name: str) -> None:
        self._need_lora("unload_lora")
        _check(await self._manager.unload_lora_adapter(self._requests.UnloadLoRAAdapterReqInput(lora_name=name)))

    def max_model_len(self) -> int | None:
        return int(self._manager.model_config.context_len)

    def adapters(self) -> list[str]:
        if not self._args.enable_lora or ":" in self._name:
            return []
        return [f"{self._name}:{name}" for name in self._manager.lora_registry.get_all_adapters()]

    def _need_lora(self, action: str) -> None:
        if self._accelerator == "cpu":
            raise NotSupportedError(f"{action}: on the CPU SGLang cannot serve adapters. Serve this model on vLLM.")
        if not self._args.enable_lora:
            raise NotSupportedError(
                f"{action}: SGLang was started without LoRA. Set enable_lora: true, max_lora_rank and"
                " engine_args.lora-target-modules, and reload."
            )
        if ":" in self._name:
            raise NotSupportedError(
                f"{action}: SGLang takes what follows the first colon of {self._name} for an adapter's name."
                " Set a served_model_name without a colon."
            )

    # ---- watching -----------------------------------------------------------------------------------------

    async def start_profile(self, path: str | None, prefix: str | None) -> str:
        if path is None:
            raise WrongArgumentsError("start_profile: path is needed: SGLang is told where to write when it begins.")
        kinds = ["CPU"] if self._accelerator == "cpu" else ["CPU", "GPU"]
        await self._manager.start_profile(
            self._requests.ProfileReq(output_dir=path, activities=kinds, profile_prefix=prefix)
        )
        return path

    async def stop_profile(self) -> None:
        await self._manager.stop_profile()

    async def set_log_level(self, level: str) -> list[str]:
        self._manager.configure_logging(self._requests.ConfigureLoggingReq(log_level=level))
        return ["SGLang's tokenizer manager", "its schedulers and detokenizer"]


def _check(answer: Any) -> None:
    if not answer.success:
        raise RefusedError(f"SGLang: {answer.error_message}")
