"""Every field of an engine's routes is harmless by its type, has a rule, or is left to the engine for a reason."""

from __future__ import annotations

from typing import Any

import pytest

from tests.real_versions import IMPORTABLE, engine_of
from tests.route_fields import read_fields

#: What only later versions have: SGLang 0.5.23, vLLM 0.33.
LATER = {"images", "mm_processor_kwargs", "parse_context", "prompt_cache_options"}


@pytest.fixture(scope="module", params=IMPORTABLE)
def found(request: pytest.FixtureRequest) -> dict[str, Any]:
    return read_fields(request.param) | {"engine": engine_of(request.param)}


@pytest.mark.timeout(300)
def test_somebody_looks_at_every_field_that_could_end_an_engine(found: dict[str, Any]) -> None:
    assert found["unseen"] == [], "give each a rule in *_requests.py, or a reason in LEFT_TO_…"


@pytest.mark.timeout(300)
def test_the_fields_are_those_of_the_routes_that_the_front_offers(found: dict[str, Any]) -> None:
    assert {"/v1/completions", "/v1/chat/completions", "/tokenize"} <= set(found["fields"])
    assert "max_tokens" in found["fields"]["/v1/completions"]
    if found["engine"] == "sglang":
        assert {"/generate", "sampling_params"} <= set(found["fields"])


@pytest.mark.timeout(300)
def test_no_field_is_left_to_an_engine_that_has_none_of_this_name(found: dict[str, Any]) -> None:
    names = {name for fields in found["fields"].values() for name in fields}
    assert set(found["left"]) - names <= LATER
