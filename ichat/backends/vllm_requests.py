"""Which field of vLLM's requests may hold what. Its twin is sglang_requests.py; the rules are in request_checks.

vLLM checks nearly all of this itself. The bounds here are for what it counts, unrolls or tokenises on the loop that
streams everybody's answers, and so that both engines refuse the same with the same words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ichat.backends.request_checks import rules
from ichat.backends.request_checks.facts import ModelFacts, RefusalError
from ichat.backends.request_checks.rules import INT32, INT64, Rule
from ichat.backends.request_checks.table import RequestTable

_INT32 = rules.integer(-INT32, INT32)
_INT64 = rules.integer(-INT64, INT64)
_LENGTH = rules.integer(-1, lambda facts: facts.max_model_len)
_LOGPROBS = rules.integer(-1, lambda facts: facts.max_logprobs)
_PATTERN = rules.integer(0, 1024)

_SAMPLING: dict[str, Rule] = {
    **dict.fromkeys(("stop", "stop_sequences"), rules.texts(4096, 32)),
    "bad_words": rules.texts(4096, 1024),
    **dict.fromkeys(("stop_token_ids", "allowed_token_ids", "logprob_token_ids"), rules.token_ids),
    "logit_bias": rules.token_keys,
    **dict.fromkeys(("logprobs", "top_logprobs", "prompt_logprobs"), _LOGPROBS),
    **dict.fromkeys(("max_tokens", "min_tokens", "n", "best_of", "top_k", "thinking_token_budget"), _INT32),
    "seed": _INT64,
    "stream_interval": rules.integer(1, INT32),
    "repetition_detection": rules.inside(
        dict.fromkeys(("max_pattern_size", "min_pattern_size", "min_count"), _PATTERN)
    ),
}

_FIELDS: dict[str, Rule] = {
    **_SAMPLING,
    **dict.fromkeys(
        ("prompt", "input", "token_ids", "tokens", "query", "queries", "items", "documents", "text_1", "text_2",
         "data_1", "data_2", "label_token_ids", "prompt_token_ids"),
        rules.token_ids,
    ),
    **dict.fromkeys(("max_completion_tokens", "max_output_tokens", "max_tool_calls", "top_n", "dimensions"), _INT32),
    **dict.fromkeys(("output_dimension", "max_tokens_per_doc", "max_tokens_per_query"), _INT32),
    **dict.fromkeys(("prompt_tokens", "token_offsets"), _INT32),
    "priority": _INT64,
    # vLLM bounds the next by the context itself, where it is not -1.
    "truncate_prompt_tokens": _INT64,
    "routed_experts_prompt_start": _LENGTH,
    "sampling_params": rules.inside(_SAMPLING),
}  # fmt: skip

#: Fields of other types than texts, switches and fractions that may hold anything, and why that is safe.
LEFT_TO_VLLM: dict[str, str] = {
    **dict.fromkeys(
        ("messages", "tools", "tool_choice", "stream_options", "system", "reasoning"),
        "typed by its classes",
    ),
    **dict.fromkeys(
        ("response_format", "structured_outputs", "text", "output_config"),
        "the front bounds what constrains an answer",
    ),
    **dict.fromkeys(("metadata", "vllm_xargs", "state", "questions"), "texts, and counted as a whole"),
    **dict.fromkeys(("chat_template_kwargs",), "a template in it is refused unless the server trusts it"),
    **dict.fromkeys(
        ("media_io_kwargs", "mm_processor_kwargs", "prompt_embeds"),
        "read by the processor, in the worker",
    ),
    **dict.fromkeys(("kv_transfer_params", "ec_transfer_params"), "read by a connector, where one is configured"),
    **dict.fromkeys(("thinking", "previous_input_messages", "inputs", "images"), "typed by its classes"),
    "prompt_cache_options": "typed by its classes",  # from 0.33 on
    **dict.fromkeys(
        ("content_parts", "features", "reasoning_parser_kwargs", "chat_request", "completion_request", "generate_chunk",
         "generate_response", "generate_responses", "stream_state", "parse_context"),
        "of routes that are off unless --enable-scale-out is set, and read in the worker",
    ),
}  # fmt: skip


def build_table(facts: ModelFacts) -> RequestTable:
    """The table for a running vLLM."""
    import msgspec

    return RequestTable(facts, build_rules(), msgspec.json.decode, {})


def build_rules() -> Mapping[str, Rule]:
    """By field."""
    return _FIELDS


def read_facts(engine: Any, limit_n: int | None) -> ModelFacts:
    """What the loaded model can take."""
    config = engine.vllm_config
    model = config.model_config
    vocab_size = model.get_vocab_size()
    longest = getattr(engine.renderer.tokenizer, "max_chars_per_token", 0)
    return ModelFacts(
        vocab_size=vocab_size,
        max_model_len=model.max_model_len,
        longest_text=model.max_model_len * longest or None,
        hidden_size=model.get_hidden_size(),
        max_logprobs=vocab_size if model.max_logprobs == -1 else model.max_logprobs,
        limit_n=limit_n,
        copies=config.parallel_config.data_parallel_size,
    )


def constraint_of(document: dict[str, Any]) -> str | None:
    """The field by which a request constrains its answer; None: it does not."""
    if document.get("structured_outputs"):
        return "structured_outputs"
    if document.get("tools") and document.get("tool_choice") not in (None, "auto", "none"):
        return "tools"
    formats = [("response_format", document.get("response_format"))]
    formats += [
        (name, held.get("format")) for name in ("text", "output_config") if isinstance(held := document.get(name), dict)
    ]
    return next((name for name, one in formats if isinstance(one, dict) and one.get("type") != "text"), None)


class VLLMMistakes:
    """vLLM compiles what constrains an answer in EngineCore, and says "Internal server error" where that fails."""

    waiting: frozenset[str] = frozenset()

    def __init__(self, is_engine_dead: Callable[[], bool], has_connector: bool) -> None:
        self._is_engine_dead, self._has_connector = is_engine_dead, has_connector

    def explain(self, document: dict[str, Any]) -> RefusalError | None:
        """A living engine fails one request because of its grammar, or because of a cache that it was to fetch."""
        field = constraint_of(document)
        if field is None or self._has_connector or self._is_engine_dead():
            return None
        return RefusalError(
            field, "the engine cannot build a grammar of it, or nothing fits it. Simplify it.", "invalid_grammar"
        )
