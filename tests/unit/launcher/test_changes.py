"""What a reload would have to do, told without doing it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr

from ichat.config.schema import Limits, Server, Timeouts
from ichat.launcher.changes import compare, kind_of, renames
from tests.unit.launcher.fleet_bench import model, settings_of


def kinds(*, old: Any, new: Any) -> dict[str, str]:
    return {change.subject: change.kind for change in compare(old, new)}


def test_the_same_settings_need_no_change() -> None:
    assert compare(settings_of(model()), settings_of(model())) == []


def test_models_come_and_go_by_name() -> None:
    old, new = settings_of(model("a"), model("b")), settings_of(model("b"), model("c"))
    assert kinds(old=old, new=new) == {"models.a": "remove", "models.c": "add"}


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"limit_concurrent": 3, "drain_s": 5, "hold_s": 0, "rollout": "hold"}, "hot"),
        ({"aliases": ("x",)}, "hot"),
        ({"instances": 3}, "scale"),
        ({"instances": 3, "limit_n": 2}, "scale"),
        ({"context_length": 4096}, "restart"),
        ({"engine_args": {"tag": "2"}}, "restart"),
        ({"served_model_name": "other"}, "restart"),
        ({"model_path": "models/other"}, "restart"),
        ({"gpus": 2}, "restart"),
    ],
)
def test_what_a_change_of_a_model_takes(changes: dict[str, Any], kind: str) -> None:
    assert kind_of(model(), model(**changes)) == kind


def test_vllm_has_to_be_told_its_aliases() -> None:
    assert kind_of(model(backend="vllm"), model(backend="vllm", aliases=("x",))) == "restart"


def test_instances_that_keep_their_gpus_stay() -> None:
    one, two = model(gpus=(("0",),)), model(gpus=(("0",), ("1",)), instances=2)
    assert kind_of(one, two) == "scale"
    assert kind_of(two, model(gpus=(("0",), ("2",)), instances=2)) == "restart"


def test_only_other_names_of_other_workers_need_all_at_once() -> None:
    assert renames(model(), model(served_model_name="other"))
    assert not renames(model(), model(aliases=("x",)))  # the front's matter alone
    assert not renames(model(), model(context_length=4096))


def test_sections_are_hot_or_need_another_start() -> None:
    old = settings_of(model())
    new = settings_of(
        model(),
        timeouts=Timeouts(drain_s=60),
        server=Server(port=9000, limits=Limits(connections=7), api_keys={"a": SecretStr("sk-1")}),
    )
    assert kinds(old=old, new=new) == {
        "timeouts.drain_s": "hot",
        "server.port": "container",
        "server.limits.connections": "hot",
        "server.api_keys": "hot",
    }


def test_why_names_old_and_new_and_no_secret() -> None:
    old = settings_of(model(env={"HF_TOKEN": "hf_old", "A": "1"}), server=Server(api_keys={"a": SecretStr("sk-old")}))
    new = settings_of(
        model(env={"HF_TOKEN": "hf_new", "A": "2"}, context_length=8192),
        server=Server(api_keys={"a": SecretStr("sk-new"), "b": SecretStr("sk-b")}),
    )
    words = " | ".join(change.why for change in compare(old, new))
    assert "context_length: unset → 8192" in words
    assert "env.A: 1 → 2" in words
    assert "api_keys: a, b" in words
    for secret in ("hf_old", "hf_new", "sk-old", "sk-new", "sk-b"):
        assert secret not in words


def test_what_came_from_a_secret_variable_is_hidden_wherever_it_stands() -> None:
    old, new = settings_of(model()), settings_of(model(env={"HEADER": "Bearer tok-12345678"}))
    assert "tok-12345678" not in compare(old, new, frozenset({"tok-12345678"}))[0].why


def test_secrets_in_words_and_variables_of_others_are_hidden() -> None:
    old, new = settings_of(model()), settings_of(model(extra_argv=("--hf-token", "hf_1"), env={"OPENAI_KEY": "sk-1"}))
    why = compare(old, new)[0].why
    assert "extra_argv:  → --hf-token ********" in why
    assert "env.OPENAI_KEY: unset → ********" in why


def test_what_goes_is_told_before_what_changes_and_what_comes() -> None:
    old = settings_of(model("a"), model("b"), model("c"))
    new = settings_of(model("d"), model("b", instances=2), model("c", context_length=1))
    assert [(one.subject, one.kind) for one in compare(old, new)] == [
        ("models.a", "remove"),
        ("models.c", "restart"),
        ("models.b", "scale"),
        ("models.d", "add"),
    ]
