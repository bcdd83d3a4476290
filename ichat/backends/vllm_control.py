"""Commands to vLLM, by the methods that its own HTTP routes call. Its twin is sglang_control.py.

Neither imports its engine: what they need of it they are given.
"""

from __future__ import annotations

import logging
from typing import Any, Literal

from ichat.backends.engine_control import EngineControl, Mode, NotSupportedError, RefusedError, Tag


class VLLMControl(EngineControl):
    """``engine`` is the AsyncLLM, ``models`` its OpenAIServingModels, ``protocol`` the module of the LoRA requests."""

    def __init__(self, engine: Any, models: Any, protocol: Any, accelerator: Literal["cpu", "cuda"]) -> None:
        self._engine, self._models, self._protocol, self._accelerator = engine, models, protocol, accelerator
        self._seen_adapters: set[str] = set()
        self._prefix = next(iter(models.base_model_paths)).name

    # ---- rest ---------------------------------------------------------------------------------------------

    def check_sleep(self, level: int) -> None:
        if self._accelerator == "cpu":
            raise NotSupportedError("sleep: on the CPU vLLM has no device memory to give up. Use pause.")
        if not self._engine.vllm_config.model_config.enable_sleep_mode:
            raise NotSupportedError(
                f"sleep: level {level} needs vLLM's sleep mode. Set engine_args.enable-sleep-mode: true and reload."
            )

    async def sleep(self, level: int) -> None:
        await self._engine.sleep(level, "wait")

    async def wake_up(self, tags: frozenset[Tag], *, reload_from: str | None) -> None:
        # With the last tag vLLM computes again by itself: the weights must be there by then.
        if "weights" in tags:
            await self._engine.wake_up(["weights"])
            if reload_from is not None:
                await self.update_weights(reload_from)
        if "kv_cache" in tags:
            await self._engine.wake_up(["kv_cache"])

    async def pause(self, mode: Mode) -> None:
        await self._engine.pause_generation(mode=mode, clear_cache=False)

    async def resume(self) -> None:
        await self._engine.resume_generation()

    # ---- weights, caches, adapters ------------------------------------------------------------------------

    async def update_weights(self, path: str) -> None:
        await self._engine.collective_rpc("reload_weights", kwargs={"weights_path": path})

    async def flush_cache(self) -> None:
        if not await self._engine.reset_prefix_cache(reset_running_requests=True):
            raise RefusedError("flush_cache: vLLM could not free every cached block. Ask again in a moment.")

    async def load_lora(self, name: str, path: str) -> None:
        self._need_lora("load_lora")
        full = f"{self._prefix}:{name}"
        request = self._protocol.LoadLoRAAdapterRequest(lora_name=full, lora_path=path)
        _check(await self._models.load_lora_adapter(request))
        if full in self._seen_adapters:
            await self.flush_cache()  # cached prefixes are known by name and path, whose files may be others now
        self._seen_adapters.add(full)

    async def unload_lora(self, name: str) -> None:
        self._need_lora("unload_lora")
        full = f"{self._prefix}:{name}"
        known = full if full in self._models.lora_requests else name  # those of lora_paths have no prefix
        adapter = self._models.lora_requests.get(known)
        _check(await self._models.unload_lora_adapter(self._protocol.UnloadLoRAAdapterRequest(lora_name=known)))
        if adapter is not None:
            await self._engine.remove_lora(adapter.lora_int_id)

    def max_model_len(self) -> int | None:
        return int(self._engine.vllm_config.model_config.max_model_len)

    def adapters(self) -> list[str]:
        return list(self._models.lora_requests)

    def _need_lora(self, action: str) -> None:
        if self._engine.vllm_config.lora_config is None:
            raise NotSupportedError(
                f"{action}: vLLM was started without LoRA. Set enable_lora: true (and max_lora_rank) and reload."
            )

    # ---- watching -----------------------------------------------------------------------------------------

    async def start_profile(self, path: str | None, prefix: str | None) -> str:
        config = self._engine.vllm_config.profiler_config
        if config is None or config.profiler is None:
            raise NotSupportedError(
                "start_profile: vLLM was started without a profiler. Set engine_args.profiler-config:"
                " {profiler: torch, torch_profiler_dir: /traces} and reload."
            )
        where = str(config.torch_profiler_dir)
        if path is not None and path.rstrip("/") != where.rstrip("/"):
            raise NotSupportedError(f"start_profile: vLLM writes to {where}, as it was started. Leave path out.")
        await self._engine.start_profile(prefix)
        return where

    async def stop_profile(self) -> None:
        await self._engine.stop_profile()

    async def set_log_level(self, level: str) -> list[str]:
        """EngineCore and the workers are other processes, which vLLM has no word to for this."""
        logger = logging.getLogger("vllm")
        logger.setLevel(level.upper())
        for handler in logger.handlers:
            handler.setLevel(level.upper())
        return ["vLLM's API server"]


def _check(answer: Any) -> None:
    """vLLM answers with words, or with an error object."""
    if not isinstance(answer, str):
        raise RefusedError(f"vLLM: {answer.error.message}")
