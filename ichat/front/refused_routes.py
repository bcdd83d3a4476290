"""What stands in the place of an engine's routes that the public port does not offer: words for its 404."""

from __future__ import annotations

_COMMANDS = "it changes the engine, so the public port does not offer it. Use {} of the admin port (docs/admin.md)."
_ABORT = "a client cannot end a request by its id, which may be another client's. Close the request's own connection."
_NOTHING = "nothing is offered at this path. See docs/front.md."
_BROKEN = "this engine's imitation of Ollama cannot answer in its served versions. Use /v1/chat/completions."

#: Of both engines, by the command of the admin port that does it.
_BY_COMMAND = {
    "flush_cache": ("/flush_cache", "/reset_prefix_cache", "/reset_mm_cache", "/reset_encoder_cache"),
    "sleep": ("/sleep", "/release_memory_occupation"),
    "wake_up": ("/wake_up", "/resume_memory_occupation"),
    "pause": ("/pause", "/pause_generation"),
    "resume": ("/resume", "/continue_generation"),
    "update_weights": ("/update_weights", "/update_weights_from_disk"),
    "load_lora": ("/v1/load_lora_adapter", "/load_lora_adapter"),
    "unload_lora": ("/v1/unload_lora_adapter", "/unload_lora_adapter"),
    "start_profile": ("/start_profile",),
    "stop_profile": ("/stop_profile", "/end_profile"),
    "log_level": ("/configure_logging",),
}
_WORDS = {
    **{path: _COMMANDS.format(command) for command, paths in _BY_COMMAND.items() for path in paths},
    **dict.fromkeys(("/abort_request", "/abort_requests", "/inference/v1/abort_requests"), _ABORT),
    **dict.fromkeys(("/api/chat", "/api/generate"), _BROKEN),
}


def instead_of(path: bytes) -> str:
    """Why the path is not offered and what to use; of a path that no engine has, where to look."""
    return _WORDS.get(path.decode("latin-1"), _NOTHING)
