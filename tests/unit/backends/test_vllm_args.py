"""What vLLM is told, and what it is not told. The parser's own view is in tests/engines/test_flags.py."""

from typing import Any

import pytest

from ichat.backends import sglang_args
from ichat.backends.vllm_args import CPU_KV_CACHE_BYTES, engine, to_argv
from ichat.config.flags import WrongValueError
from ichat.config.schema import Model, Unified


def model(**settings: Any) -> Model:
    return Model(**{"name": "m", "model_path": "/models/m", "backend": "vllm"} | settings)


def test_nothing_is_said_that_nobody_asked_for():
    assert to_argv(model(), accelerator="cuda") == ["--model=/models/m", "--served-model-name=m"]


def test_on_a_cpu_the_cache_has_a_size_unless_somebody_gave_one():
    size = f"--kv-cache-memory-bytes={CPU_KV_CACHE_BYTES}"
    assert size in to_argv(model(), accelerator="cpu")
    assert size not in to_argv(model(memory_fraction=0.3), accelerator="cpu")
    assert size not in to_argv(model(engine_args={"kv-cache-memory-bytes": 5}), accelerator="cpu")
    assert size not in to_argv(model(extra_argv=("--kv-cache-memory-bytes", "5")), accelerator="cpu")


def test_on_a_cpu_a_context_that_nobody_gave_is_what_fits():
    assert "--max-model-len=auto" in to_argv(model(), accelerator="cpu")
    argv = to_argv(model(context_length=5), accelerator="cpu")
    assert [word for word in argv if word.startswith("--max-model-len")] == ["--max-model-len=5"]


def test_aliases_are_further_names():
    argv = to_argv(model(aliases=("a", "b")), accelerator="cuda")
    assert argv == ["--model=/models/m", "--served-model-name", "m", "a", "b"]


def test_what_the_user_says_in_the_engines_words_stands_as_written_and_once():
    argv = to_argv(
        model(seed=1, engine_args={"block-size": 16}, extra_argv=("--seed", "2", "--middleware=a", "--middleware=b")),
        accelerator="cuda",
    )
    assert argv[2:] == ["--block-size=16", "--seed", "2", "--middleware=a", "--middleware=b"]


def test_false_is_said():
    argv = to_argv(model(enable_prefix_caching=False, trust_remote_code=False, enable_lora=False), accelerator="cuda")
    assert {"--no-enable-prefix-caching", "--no-trust-remote-code", "--no-enable-lora"} <= set(argv)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([1, 2], ["--cudagraph-capture-sizes", "1", "2"]),
        ([], []),
        (4, ["--cudagraph-capture-sizes=4"]),
        (None, []),
    ],
)
def test_a_list_becomes_words(value, words):
    assert to_argv(model(engine_args={"cudagraph-capture-sizes": value}), accelerator="cuda")[2:] == words


def test_a_mapping_becomes_json():
    argv = to_argv(model(engine_args={"compilation-config": {"mode": 3, "name": "ü"}}), accelerator="cuda")
    assert argv[-1] == '--compilation-config={"mode": 3, "name": "ü"}'


def test_what_cannot_be_said_is_an_error_and_not_dropped():
    with pytest.raises(WrongValueError, match="takes a value, not false"):
        to_argv(model(engine_args={"block-size": False}), accelerator="cuda")
    with pytest.raises(WrongValueError, match=r"no-such: vLLM .* has no such flag"):
        to_argv(model(engine_args={"no-such": 1}), accelerator="cuda")


def test_arguments_of_the_other_engine_are_not_said():
    assert to_argv(model(sglang_args={"disable-cuda-graph": True}), accelerator="cuda")[2:] == []
    assert to_argv(model(vllm_args={"enforce-eager": True}), accelerator="cuda")[2:] == ["--enforce-eager"]


def test_a_model_survives_its_way_to_the_worker():
    before = model(lora_paths=("a=/b",), extra_argv=("-O3",), engine_args={"enforce-eager": False}, env={"A": "1"})
    after = Model.model_validate(before.model_dump(mode="json"))
    assert to_argv(after, accelerator="cpu") == to_argv(before, accelerator="cpu")


def test_every_flag_that_the_tables_name_exists():
    catalogue = engine().catalogue
    named = [*engine().reserved, *engine().equivalents, *(word.flag for word in engine().words)]
    assert [flag for flag in named if flag not in catalogue.by_spelling] == []


def test_the_twins_say_the_same_words_in_the_same_order():
    settings = [word.setting for word in engine().words]
    assert settings == [word.setting for word in sglang_args.engine().words]
    assert settings == list(Unified.model_fields)
