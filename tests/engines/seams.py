"""Runs in an engine's environment and starts no engine: what of the calls that ichat makes would not fit, as JSON.

A call fits if the function takes the arguments that ichat gives it. The app is built, for its routes.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ichat.backends.engine_versions import first_of

#: The calls of vllm_backend.py and vllm_control.py: what is called → positional arguments, keywords.
VLLM: dict[str, tuple[int, tuple[str, ...]]] = {
    "vllm.entrypoints.launchers.launcher:setup_server": (1, ("reuse_port",)),
    "vllm.entrypoints.launchers.app:build_app": (3, ()),
    "vllm.entrypoints.launchers.api_server.app_state:init_app_state": (4, ()),
    "vllm.entrypoints.launchers.utils.server_utils:get_uvicorn_log_config": (1, ()),
    "vllm.logger:configure_logging_from_args": (1, ()),
    "vllm.engine.arg_utils:AsyncEngineArgs.from_cli_args": (1, ()),
    "vllm.engine.arg_utils:AsyncEngineArgs.create_engine_config": (1, ("usage_context",)),
    "vllm.v1.engine.async_llm:AsyncLLM.from_vllm_config": (
        0, ("vllm_config", "usage_context", "enable_log_requests", "aggregate_engine_logging", "disable_log_stats",
            "stat_loggers"),
    ),
    "vllm.v1.engine.core_client:AsyncMPClient._call_utility_async": (2, ("engine",)),
    "vllm.v1.engine.async_llm:AsyncLLM.shutdown": (2, ()),
    "vllm.v1.engine.async_llm:AsyncLLM.reset_mm_cache": (1, ()),
    "vllm.v1.engine.async_llm:AsyncLLM.get_supported_tasks": (1, ()),
    "vllm.v1.engine.async_llm:AsyncLLM.check_health": (1, ()),
    "vllm.v1.engine.async_llm:AsyncLLM.is_sleeping": (1, ()),
    "vllm.v1.engine.async_llm:AsyncLLM.collective_rpc": (2, ("kwargs",)),
    "vllm.v1.engine.async_llm:AsyncLLM.get_num_unfinished_requests": (1, ()),
    "vllm.v1.engine.async_llm:AsyncLLM.sleep": (3, ()),
    "vllm.v1.engine.async_llm:AsyncLLM.wake_up": (2, ()),
    "vllm.v1.engine.async_llm:AsyncLLM.pause_generation": (1, ("mode", "clear_cache")),
    "vllm.v1.engine.async_llm:AsyncLLM.resume_generation": (1, ()),
    "vllm.v1.engine.async_llm:AsyncLLM.reset_prefix_cache": (1, ("reset_running_requests",)),
    "vllm.v1.engine.async_llm:AsyncLLM.remove_lora": (2, ()),
    "vllm.v1.engine.async_llm:AsyncLLM.start_profile": (2, ()),
    "vllm.v1.engine.async_llm:AsyncLLM.stop_profile": (1, ()),
    "vllm.entrypoints.serve.lora.protocol:LoadLoRAAdapterRequest": (0, ("lora_name", "lora_path")),
    "vllm.entrypoints.serve.lora.protocol:UnloadLoRAAdapterRequest": (0, ("lora_name",)),
    "vllm:ModelRegistry.register_model": (2, ()),
}  # fmt: skip
#: The calls of sglang_backend.py and sglang_control.py.
_MANAGER = "sglang.srt.managers.tokenizer_manager:TokenizerManager"
_REQUESTS = "sglang.srt.managers.io_struct"
SGLANG: dict[str, tuple[int, tuple[str, ...]]] = {
    "sglang.srt.plugins:load_plugins": (0, ()),
    "sglang.srt.server_args:prepare_server_args": (1, ()),
    "sglang.srt.server_args:ServerArgs.resolve_once": (1, ()),
    "sglang.srt.arg_groups.overrides:resolving_view": (1, ()),
    "sglang.srt.configs.model_config:is_generation_model": (2, ()),
    "sglang.srt.entrypoints.engine:Engine._launch_subprocesses": (
        0, ("server_args", "init_tokenizer_manager_func", "run_scheduler_process_func", "run_detokenizer_process_func"),
    ),
    "sglang.srt.entrypoints.http_server:set_global_state": (1, ()),
    "sglang.srt.entrypoints.http_server:_GlobalState": (0, ("tokenizer_manager", "template_manager", "scheduler_info")),
    "sglang.srt.utils:set_uvicorn_logging_configs": (1, ()),
    "sglang.srt.utils.auth:add_api_key_middleware": (1, ("api_key", "admin_api_key")),
    "sglang.srt.utils.auth:app_has_admin_force_endpoints": (1, ()),
    "sglang.srt.managers.load_snapshot:ShmLoadSnapshotReader._attach": (1, ()),
    "sglang.srt.managers.load_snapshot:ShmLoadSnapshotReader._read_slot": (2, ()),
    "sglang.srt.managers.load_snapshot:LoadSnapshot": (
        0, ("timestamp", "num_running_reqs", "num_waiting_reqs", "num_waiting_uncached_tokens",
            "total_prefill_uncached_tokens", "decode_moments"),
    ),
    f"{_MANAGER}.generate_request": (3, ()),
    f"{_MANAGER}.freeze_gc": (1, ()),
    f"{_MANAGER}.pause_generation": (2, ()),
    f"{_MANAGER}.continue_generation": (2, ()),
    f"{_MANAGER}.release_memory_occupation": (2, ()),
    f"{_MANAGER}.resume_memory_occupation": (2, ()),
    f"{_MANAGER}.update_weights_from_disk": (2, ()),
    f"{_MANAGER}.flush_cache": (1, ()),
    f"{_MANAGER}.load_lora_adapter": (2, ()),
    f"{_MANAGER}.unload_lora_adapter": (2, ()),
    f"{_MANAGER}.start_profile": (2, ()),
    f"{_MANAGER}.stop_profile": (1, ()),
    f"{_MANAGER}.configure_logging": (2, ()),
    f"{_MANAGER}._dispatch_to_scheduler": (2, ()),
    f"{_REQUESTS}:GenerateReqInput": (0, ("rid", "input_ids", "sampling_params", "log_metrics", "routed_dp_rank")),
    f"{_REQUESTS}:EmbeddingReqInput": (0, ("rid", "input_ids", "sampling_params", "log_metrics")),
    f"{_REQUESTS}:ReleaseMemoryOccupationReqInput": (0, ("tags",)),
    f"{_REQUESTS}:ResumeMemoryOccupationReqInput": (0, ("tags",)),
    f"{_REQUESTS}:PauseGenerationReqInput": (0, ("mode",)),
    f"{_REQUESTS}:ContinueGenerationReqInput": (0, ("torch_empty_cache",)),
    f"{_REQUESTS}:UpdateWeightFromDiskReqInput": (0, ("model_path", "flush_cache")),
    f"{_REQUESTS}:LoadLoRAAdapterReqInput": (0, ("lora_name", "lora_path")),
    f"{_REQUESTS}:UnloadLoRAAdapterReqInput": (0, ("lora_name",)),
    f"{_REQUESTS}:ProfileReq": (0, ("output_dir", "activities", "profile_prefix")),
    f"{_REQUESTS}:ConfigureLoggingReq": (0, ("log_level",)),
    f"{_REQUESTS}:ShutdownReq": (0, ()),
}  # fmt: skip


def misfits(calls: dict[str, tuple[int, tuple[str, ...]]]) -> Iterator[str]:
    for place, (positional, keywords) in calls.items():
        module, _, names = place.partition(":")
        try:
            found: Any = importlib.import_module(module)
            for name in names.split("."):
                found = getattr(found, name)
            inspect.signature(found).bind(*range(positional), **dict.fromkeys(keywords))
        except (ImportError, AttributeError, TypeError) as error:
            yield f"{place}: {error}"


def vllm_routes(argv: list[str]) -> Any:
    from vllm.entrypoints.launchers.app import build_app
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    from ichat.backends import vllm_compat

    args = vllm_compat.command_line().make_parser(FlexibleArgumentParser()).parse_args(argv)
    engine_args = first_of("vllm.engine.arg_utils:AsyncEngineArgs").from_cli_args(args)
    config = engine_args.create_engine_config()
    return build_app(args, ("generate",), config.model_config)


def sglang_routes(argv: list[str]) -> Any:
    del argv
    from sglang.srt.entrypoints.http_server import app

    return app


def main() -> None:
    is_vllm = find_spec("vllm") is not None
    app = (vllm_routes if is_vllm else sglang_routes)(json.loads(sys.argv[1]))
    routes = sorted(
        f"{method} {route.path}" for route in app.routes for method in getattr(route, "methods", None) or ()
    )
    found = {"misfits": list(misfits(VLLM if is_vllm else SGLANG)), "routes": routes}
    Path(sys.argv[2]).write_text(json.dumps(found))
    os._exit(0)


main()
