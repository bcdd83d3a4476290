"""vLLM's table, and when its 500 is the request's fault."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from ichat.backends import vllm_requests
from ichat.backends.request_checks.facts import ModelFacts, RefusalError
from ichat.backends.request_checks.table import RequestTable

TABLE = RequestTable(ModelFacts(vocab_size=100, max_model_len=64), vllm_requests.build_rules(), orjson.loads, {})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", [100]),
        ("prompt_logprobs", 21),
        ("top_k", 2**31),
        ("seed", 2**63),
        ("allowed_token_ids", [-1]),
        ("bad_words", ["x"] * 1025),
        ("stop_sequences", "x" * 5000),
        ("repetition_detection", {"max_pattern_size": 10**9}),
        ("sampling_params", {"stop_token_ids": [100]}),
        ("label_token_ids", [100]),
        ("stream_interval", 0),
    ],
)
def test_what_vllm_would_count_or_unroll_is_bounded(field: str, value: Any) -> None:
    with pytest.raises(RefusalError, match=f"^{field}"):
        TABLE.read("/v1/completions", json.dumps({field: value}).encode())


def test_a_whole_request_of_openai_s_client_passes() -> None:
    body = {
        "model": "demo", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0.7, "n": 2, "seed": 5, "stop": ["a"],
        "logprobs": True, "top_logprobs": 20, "max_completion_tokens": 10, "logit_bias": {"5": -100},
        "response_format": {"type": "json_object"}, "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    assert TABLE.read("/v1/chat/completions", json.dumps(body).encode()) == body


def test_a_500_is_the_request_s_fault_when_it_asks_for_a_grammar_and_the_engine_lives() -> None:
    asked = {"response_format": {"type": "json_schema"}}
    living = vllm_requests.VLLMMistakes(lambda: False, has_connector=False)
    assert living.explain(asked).field == "response_format"  # type: ignore[union-attr]
    assert living.explain({"structured_outputs": {"regex": "\\p{L}"}}) is not None
    assert living.explain({"text": {"format": {"type": "json_schema"}}}) is not None
    assert living.explain({"tools": [{}], "tool_choice": "required"}) is not None
    for free in (
        {"response_format": {"type": "text"}},
        {"tools": [{}]},
        {"text": {"format": {"type": "text"}}},
        {"text": "x"},
    ):
        assert living.explain(free) is None
    assert living.explain({"prompt": "hi"}) is None
    assert vllm_requests.VLLMMistakes(lambda: True, has_connector=False).explain(asked) is None
    assert vllm_requests.VLLMMistakes(lambda: False, has_connector=True).explain(asked) is None
