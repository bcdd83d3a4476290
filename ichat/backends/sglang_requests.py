"""Which field of SGLang's requests may hold what. Its twin is vllm_requests.py; the rules are in request_checks.

SGLang's OpenAI routes check types with pydantic and answer 400. What a scheduler takes on trust is bounded here: an
index out of range, a width that is not the model's or a field of SGLang's own ends it, and with it everybody's answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ichat.backends.request_checks import rules
from ichat.backends.request_checks.facts import ModelFacts, RefusalError
from ichat.backends.request_checks.rules import INT32, INT64, Rule
from ichat.backends.request_checks.table import RequestTable

_OWN = "SGLang sets this field itself"
_DISAGGREGATED = "it belongs to disaggregated serving, which is off here"
_INT32 = rules.integer(-INT32, INT32)
_STOPS = rules.texts(4096, 32)
_LENGTH = rules.integer(0, lambda facts: facts.max_model_len)
_LOGPROBS = rules.integer(0, lambda facts: facts.max_logprobs)
_RANK = rules.integer(0, lambda facts: facts.copies - 1)
_PATCHES = rules.integer(0, 1024)

#: Bounds of numbers and texts that are sampling parameters, under their names on any route.
_SAMPLING: dict[str, Rule] = {
    "max_new_tokens": _INT32,
    "min_new_tokens": _INT32,
    "stop": _STOPS,
    "stop_regex": rules.expressions(256, 32),  # SGLang's own bounds; the front bounds how long matching takes
    "stop_token_ids": rules.token_ids,
    "top_k": _INT32,
    "n": _INT32,
    "beam_width": _INT32,
    "repetition_penalty": rules.number(0.01, 2),  # with less the scheduler divides by nothing
    "stream_interval": rules.integer(1, INT32),
    "logit_bias": rules.token_keys,
    "sampling_seed": rules.integer(-INT64, INT64),
    "custom_params": rules.inside({"thinking_budget": _INT32, "__req__": rules.refused(_OWN)}),
    "stop_strs": rules.refused(_OWN),
    "stop_regex_strs": rules.refused(_OWN),
    "stop_str_max_len": rules.refused(_OWN),
    "stop_regex_max_len": rules.refused(_OWN),
    "is_normalized": rules.refused(_OWN, but_false=True),
    "ebnf_full_assistant": rules.refused(_OWN, but_false=True),
}

_FIELDS: dict[str, Rule] = {
    **{name: rule for name, rule in _SAMPLING.items() if name != "custom_params"},
    "custom_params": _SAMPLING["custom_params"],
    # Prompts, and what is read from them or written into their place.
    **dict.fromkeys(
        ("prompt", "input", "tokens", "query", "items", "label_token_ids", "token_ids_logprob", "context",
         "embed_override_token_id"),
        rules.token_ids,
    ),
    "input_ids": rules.all_of(rules.token_ids, rules.filled),
    "input_embeds": rules.all_of(rules.vectors, rules.filled),
    **dict.fromkeys(("embed_overrides", "query_embed_overrides", "item_embed_overrides"), rules.vectors),
    "positional_embed_overrides": rules.refused(_OWN),
    # What is computed beside the answer.
    **dict.fromkeys(("logprobs", "top_logprobs", "top_logprobs_num"), _LOGPROBS),
    "logprob_start_len": rules.integer(-1, lambda facts: facts.max_model_len),
    "routed_experts_start_len": _LENGTH,
    **dict.fromkeys(
        ("multi_item_delimiter_indices", "token_indices_to_pool", "decision_layout"), rules.refused(_OWN)
    ),
    # Sizes and counts.
    **dict.fromkeys(
        ("best_of", "max_tokens", "max_completion_tokens", "max_output_tokens", "max_tool_calls", "min_tokens", "top_n",
         "priority", "max_thinking_tokens", "prompt_format_version", "num_predict"),
        _INT32,
    ),
    "dimensions": rules.integer(1, INT32),
    "seed": rules.integer(-INT64, INT64),
    **dict.fromkeys(
        ("max_dynamic_patch", "min_dynamic_patch", "image_max_dynamic_patch", "video_max_dynamic_patch"), _PATCHES
    ),
    # Where it is computed.
    **dict.fromkeys(("routed_dp_rank", "data_parallel_rank"), _RANK),
    # What the tokenizer manager puts into a request on its way.
    **dict.fromkeys(
        ("http_worker_ipc", "lora_id", "external_trace_header", "received_time", "num_items_assigned", "encoder_urls",
         "kv_hints"),
        rules.refused(_OWN),
    ),
    **dict.fromkeys(("need_wait_for_mm_inputs", "return_bytes"), rules.refused(_OWN, but_false=True)),
}  # fmt: skip

_OF_DISAGGREGATION = (
    "bootstrap_host", "bootstrap_port", "bootstrap_room", "bootstrap_pair_key", "decode_tp_size",
    "disagg_prefill_dp_rank",
)  # fmt: skip

#: Fields of other types than texts, switches and fractions that may hold anything, and why that is safe.
LEFT_TO_SGLANG: dict[str, str] = {
    **dict.fromkeys(("messages", "tools", "tool_choice", "reasoning", "stream_options"), "typed by its classes"),
    **dict.fromkeys(("response_format", "text", "output_config"), "what constrains an answer is the front's to bound"),
    **dict.fromkeys(("image_data", "video_data", "audio_data", "images"), "read by the processor, in the worker"),
    **dict.fromkeys(("images_config", "video_config", "mm_processor_kwargs"), "read by the processor, in the worker"),
    **dict.fromkeys(("metadata", "instances", "questions", "state", "documents"), "texts, and counted as a whole"),
    **dict.fromkeys(("thinking", "system", "mm_hashes", "mm_content_hashes", "temperature"), "typed by its classes"),
    **dict.fromkeys(("return_prompt_token_ids",), "typed by its classes"),
}

#: Fields that take one value for all prompts of a request, or a list with one for each.
_PER_PROMPT = (
    "rid", "sampling_params", "return_logprob", "logprob_start_len", "top_logprobs_num", "return_sampling_mask",
    "sampling_logprobs_mode", "return_hidden_states", "lora_path", "custom_logit_processor", "extra_key", "cache_salt",
    "watermark",
)  # fmt: skip


def build_table(facts: ModelFacts, server_args: Any) -> RequestTable:
    """The table for a running SGLang; ``server_args`` are its resolved ones."""
    import msgspec

    whole = {
        "/vertex_generate": check_vertex,
        **dict.fromkeys(
            (
                "/generate",
                "/encode",
                "/classify",
                "/v1/completions",
                "/v1/embeddings",
                "/v1/chat/completions",
                "/invocations",
                "/v1/responses",
            ),
            check_lists,
        ),
    }
    return RequestTable(facts, build_rules(server_args), msgspec.json.decode, whole)


def build_rules(server_args: Any) -> Mapping[str, Rule]:
    """By field. What depends on the server's modes is decided here."""
    from sglang.srt.constants import HEALTH_CHECK_RID_PREFIX
    from sglang.srt.managers.io_struct import SessionParams
    from sglang.srt.sampling.sampling_params import SamplingParams

    types = struct_rules(SamplingParams)
    sampling = {
        name: rules.all_of(types[name], _SAMPLING[name]) if name in _SAMPLING else types[name] for name in types
    }
    labels = getattr(server_args, "tokenizer_metrics_allowed_custom_labels", None) or ()
    name = rules.all_of(
        rules.texts(1024, 4096), rules.not_beginning_with(HEALTH_CHECK_RID_PREFIX, "SGLang's own probes are called so.")
    )
    is_whole = getattr(server_args, "disaggregation_mode", "null") == "null"
    found: dict[str, Rule] = {
        **_FIELDS,
        **dict.fromkeys(_OF_DISAGGREGATION, rules.refused(_DISAGGREGATED) if is_whole else _INT32),
        "rid": name,
        "request_id": name,
        "custom_labels": rules.keys_among(labels, "the server allows no such label of metrics"),
        "session_params": rules.inside(struct_rules(SessionParams), SessionParams.__struct_fields__),
        "chat_template_kwargs": rules.keys_not_among(_template_arguments(), "it is not the template's"),
        "sampling_params": rules.inside(sampling, tuple(types)),
    }
    if "watermark" in types:  # from 0.5.23 on; on /generate SGLang leaves its type open
        found["watermark"] = rules.inside(struct_rules(_watermark()))
    found["parameters"] = rules.inside(dict(found))
    found["instances"] = rules.inside({key: found[key] for key in ("input_ids", "input_embeds")})
    return found


def _watermark() -> Any:
    from sglang.srt.sampling.watermarking.core import WatermarkRequestConfig

    return WatermarkRequestConfig


def struct_rules(struct: Any) -> dict[str, Rule]:
    """By field of one of SGLang's structs: a value of the type that it names, strictly."""
    import msgspec

    def convert_to(kind: Any) -> Callable[[Any], object]:
        return lambda value: msgspec.convert(value, kind)

    return {field.name: rules.typed(convert_to(field.type)) for field in msgspec.structs.fields(struct)}


def check_vertex(document: dict[str, Any]) -> None:
    """Vertex AI's route makes a request of its ``parameters`` without asking its class for the types."""
    from pydantic import TypeAdapter, ValidationError
    from sglang.srt.managers.io_struct import GenerateReqInput

    parameters, instances = document.get("parameters") or {}, document.get("instances")
    if type(parameters) is not dict or type(instances) is not list:
        return  # the class of the body says so itself
    try:
        TypeAdapter(GenerateReqInput).validate_python(parameters)
    except ValidationError as error:
        first = error.errors()[0]
        raise RefusalError(".".join(map(str, ("parameters", *first["loc"]))), f"{first['msg']}.") from None
    _check_lists(parameters, len(instances), "parameters.")
    known = set(GenerateReqInput.__dataclass_fields__)
    unknown = next((key for key in parameters if key not in known), None)
    if unknown is not None:
        raise RefusalError(f"parameters.{unknown}", "SGLang has no such field. Leave it out.", "unknown_parameter")


def check_lists(document: dict[str, Any]) -> None:
    """SGLang takes a list apart where there are several prompts; where there is one, its scheduler gets the list."""
    _check_lists(document, _count_prompts(document), "")


def _check_lists(fields: dict[str, Any], prompts: int, path: str) -> None:
    """``prompts``: 0 where there is one, and not a list with one."""
    for name in _PER_PROMPT:
        value = fields.get(name)
        if type(value) is list and (not prompts or len(value) != prompts):
            counted = f"for {prompts} prompts" if prompts else "for one prompt: send a value, not a list"
            raise RefusalError(path + name, f"a list of {len(value)} {counted}.")


def _count_prompts(document: dict[str, Any]) -> int:
    for name in ("text", "prompt", "input", "input_ids"):
        prompts = document.get(name)
        if type(prompts) is list and prompts:
            return len(prompts) if type(prompts[0]) in (str, list) else 0  # else they are the ids of one
    embeds = document.get("input_embeds")
    is_batch = type(embeds) is list and embeds and type(embeds[0]) is list and embeds[0] and type(embeds[0][0]) is list
    return len(embeds) if is_batch and embeds is not None else 0


def _template_arguments() -> frozenset[str]:
    """What SGLang itself says to the function that applies a chat template, or what would change its work."""
    import inspect

    from transformers import PreTrainedTokenizerBase

    named = set(inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters)
    return frozenset(named - {"self", "documents", "add_generation_prompt", "continue_final_message", "kwargs"})


def read_facts(tokenizer_manager: Any, server_args: Any, limit_n: int | None) -> ModelFacts:
    """What the loaded model can take."""
    config = tokenizer_manager.model_config
    return ModelFacts(
        vocab_size=config.vocab_size,
        max_model_len=tokenizer_manager.context_len,
        longest_text=_longest_text(tokenizer_manager, server_args),
        hidden_size=config.hidden_size,
        limit_n=limit_n,
        copies=max(1, getattr(server_args, "dp_size", 1) or 1),
    )


def _longest_text(tokenizer_manager: Any, server_args: Any) -> int | None:
    """As vLLM has it: the longest token of the vocabulary, as often as the context allows."""
    tokenizer = tokenizer_manager.tokenizer
    if tokenizer is None or getattr(server_args, "allow_auto_truncate", False) or not hasattr(tokenizer, "get_vocab"):
        return None
    return int(tokenizer_manager.context_len * max(map(len, tokenizer.get_vocab()), default=0)) or None


class SGLangMistakes:
    """SGLang's errors of one request are exceptions; its answers with 500 do not tell whose fault it was."""

    waiting = frozenset({"_wait_one_response"})

    def explain(self, document: dict[str, Any]) -> RefusalError | None:
        """None: SGLang compiles constraints in its scheduler and answers 400 where it cannot."""
        del document
        return None
