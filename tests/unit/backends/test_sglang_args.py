"""What SGLang is told, and what it is not told. The parser's own view is in tests/engines/test_flags.py."""

from typing import Any

import pytest

from ichat.backends.sglang_args import CPU_TOTAL_TOKENS, engine, to_argv
from ichat.config.flags import WrongValueError
from ichat.config.schema import Model


def model(**settings: Any) -> Model:
    return Model(**{"name": "m", "model_path": "/models/m", "backend": "sglang"} | settings)


def test_nothing_is_said_that_nobody_asked_for_but_metrics_and_sleep_which_vllm_always_has():
    argv = ["--model-path=/models/m", "--served-model-name=m"]
    assert to_argv(model(), accelerator="cuda") == ["--enable-metrics", "--sleep-on-idle", *argv]
    assert to_argv(model(engine_args={"enable-metrics": False, "sleep-on-idle": False}), accelerator="cuda") == argv


def test_on_a_cpu_it_gets_what_it_needs_there_unless_somebody_said_otherwise():
    argv = to_argv(model(), accelerator="cpu")
    assert {"--device=cpu", "--attention-backend=torch_native", "--model-impl=transformers"} <= set(argv)
    argv = to_argv(model(extra_argv=("--attention-backend", "triton")), accelerator="cpu")
    assert "--attention-backend=torch_native" not in argv
    assert argv[-2:] == ["--attention-backend", "triton"]


@pytest.mark.parametrize(
    ("settings", "tokens"),
    [
        ({}, CPU_TOTAL_TOKENS),
        ({"context_length": 1024}, 4096),
        ({"context_length": 8192}, CPU_TOTAL_TOKENS),
        ({"context_length": 32768}, 32768),
        ({"memory_fraction": 0.5}, None),
        ({"engine_args": {"mem-fraction-static": 0.5}}, None),
        ({"engine_args": {"max-total-tokens": 5}}, 5),
    ],
)
def test_on_a_cpu_the_cache_has_a_size_that_holds_at_least_one_full_context(settings, tokens):
    argv = to_argv(model(**settings), accelerator="cpu")
    said = [word for word in argv if word.startswith("--max-total-tokens")]
    assert said == ([f"--max-total-tokens={tokens}"] if tokens else [])


def test_what_the_user_says_in_the_engines_words_stands_as_written_and_once():
    argv = to_argv(model(seed=1, engine_args={"page-size": 16}, extra_argv=("--random-seed", "2")), accelerator="cuda")
    assert argv[4:] == ["--page-size=16", "--random-seed", "2"]


def test_false_is_said():
    argv = to_argv(model(enable_prefix_caching=False, engine_args={"dllm-fdfo": False}), accelerator="cuda")
    assert {"--disable-radix-cache", "--no-dllm-fdfo"} <= set(argv)
    assert "--disable-radix-cache" not in to_argv(model(enable_prefix_caching=True), accelerator="cuda")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([1, 2], ["--cuda-graph-bs-decode", "1", "2"]),
        ([], []),
        (4, ["--cuda-graph-bs-decode=4"]),
        (None, []),
    ],
)
def test_a_list_becomes_words(value, words):
    assert to_argv(model(engine_args={"cuda-graph-bs-decode": value}), accelerator="cuda")[4:] == words


def test_a_mapping_becomes_json():
    argv = to_argv(model(engine_args={"limit-mm-data-per-request": {"image": 3, "name": "ü"}}), accelerator="cuda")
    assert argv[-1] == '--limit-mm-data-per-request={"image": 3, "name": "ü"}'


def test_what_cannot_be_said_is_an_error_and_not_dropped():
    with pytest.raises(WrongValueError, match="takes a value, not false"):
        to_argv(model(engine_args={"page-size": False}), accelerator="cuda")
    with pytest.raises(WrongValueError, match="cannot be set to false"):
        to_argv(model(engine_args={"enable-multimodal": False}), accelerator="cuda")
    with pytest.raises(WrongValueError, match=r"no-such: SGLang .* has no such flag"):
        to_argv(model(engine_args={"no-such": 1}), accelerator="cuda")


def test_arguments_of_the_other_engine_are_not_said():
    assert to_argv(model(vllm_args={"enforce-eager": True}), accelerator="cuda")[4:] == []
    assert to_argv(model(sglang_args={"disable-cuda-graph": True}), accelerator="cuda")[4:] == ["--disable-cuda-graph"]


def test_a_model_survives_its_way_to_the_worker():
    before = model(
        lora_paths=("a=/b",), extra_argv=("--tp", "2"), engine_args={"disable-cuda-graph": False}, env={"A": "1"}
    )
    after = Model.model_validate(before.model_dump(mode="json"))
    assert to_argv(after, accelerator="cpu") == to_argv(before, accelerator="cpu")


def test_every_flag_that_the_tables_name_exists():
    catalogue = engine().catalogue
    named = [*engine().reserved, *engine().equivalents, *(word.flag for word in engine().words)]
    assert [flag for flag in named if flag not in catalogue.by_spelling] == []
