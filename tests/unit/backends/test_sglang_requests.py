"""Lists of SGLang's requests: one value for each prompt, or none."""

from __future__ import annotations

from typing import Any

import pytest

from ichat.backends.request_checks.facts import RefusalError
from ichat.backends.sglang_requests import check_lists


@pytest.mark.parametrize(
    "prompt", [{"text": "a"}, {"input_ids": [1, 2]}, {"input_embeds": [[1.0]]}, {}, {"prompt": "a"}]
)
@pytest.mark.parametrize("field", ["return_hidden_states", "top_logprobs_num", "rid", "sampling_params", "lora_path"])
def test_one_prompt_has_no_lists(prompt: dict[str, Any], field: str) -> None:
    for value in ([], [1], [[True]]):
        with pytest.raises(RefusalError, match=f"^{field}: a list of {len(value)} for one prompt"):
            check_lists(prompt | {field: value})


@pytest.mark.parametrize(
    "prompt", [{"text": ["a", "b"]}, {"input_ids": [[1], [2]]}, {"input_embeds": [[[1.0]], [[2.0]]]}]
)
def test_a_list_has_a_value_for_each_prompt(prompt: dict[str, Any]) -> None:
    check_lists(prompt | {"rid": ["x", "y"], "top_logprobs_num": 5, "modalities": ["image"]})
    for value in ([], ["x"], ["x"] * 3):
        with pytest.raises(RefusalError, match=f"^rid: a list of {len(value)} for 2 prompts"):
            check_lists(prompt | {"rid": value})
