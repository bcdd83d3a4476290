"""Two models on two engines behind one port, as the official ``openai`` client and an operator meet them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import openai
import psutil
import pytest

from tests.launcher_process import Launcher, ask
from tests.real_engine import ENGINE_ARGS, ENGINES
from tests.worker_process import DEMO

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]

KEYS = {"alice": "sk-alice-12345678", "ci": "sk-ci-12345678"}
QUESTION = [{"role": "user", "content": "Who are you?"}]
ANSWER = "I am the demo model of ichat, a very small model that knows ichat itself and little else."


def described(backend: str, **changes: Any) -> dict[str, Any]:
    model = {"backend": backend, "model_path": str(DEMO), "context_length": 1024, "engine_args": ENGINE_ARGS[backend]}
    return model | {"aliases": [f"{backend}-alias"]} | changes


@pytest.fixture(scope="module")
def it() -> Iterator[Launcher]:
    models = {f"on-{backend}": described(backend) for backend in ENGINES}
    with Launcher(models=models, server={"api_keys": KEYS}, timeouts={"linger_s": 0}) as launcher:
        launcher.wait_ready(180)
        yield launcher
        groups = set(launcher.pids().values())
        assert launcher.stop(limit_s=40) == 0
        assert not [one.pid for one in psutil.process_iter() if one.pid in groups]


@pytest.fixture
def client(it: Launcher) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://127.0.0.1:{it.port}/v1", api_key=KEYS["alice"], max_retries=0, timeout=60)


@pytest.mark.parametrize("backend", ENGINES)
@pytest.mark.parametrize("name", ["on-{}", "{}-alias"])
def test_each_name_is_answered_by_its_engine(client: openai.OpenAI, backend: str, name: str) -> None:
    answer = client.chat.completions.create(model=name.format(backend), messages=QUESTION, temperature=0)  # type: ignore[arg-type]
    assert answer.choices[0].message.content == ANSWER
    fingerprint = answer.system_fingerprint or ""
    assert fingerprint.startswith("vllm") == (backend == "vllm")


@pytest.mark.parametrize("backend", ENGINES)
def test_streams_come_from_either(client: openai.OpenAI, backend: str) -> None:
    stream = client.chat.completions.create(model=f"on-{backend}", messages=QUESTION, temperature=0, stream=True)  # type: ignore[call-overload]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == ANSWER


def test_all_names_are_listed_with_their_limits(client: openai.OpenAI) -> None:
    cards = {card.id: card.to_dict() for card in client.models.list()}
    assert sorted(cards) == ["on-sglang", "on-vllm", "sglang-alias", "vllm-alias"]
    assert {card["max_model_len"] for card in cards.values()} == {1024}
    assert cards["vllm-alias"]["root"] == "on-vllm"


def test_an_unknown_name_is_told_those_that_are_served(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="on-vllm") as found:
        client.chat.completions.create(model="nobody", messages=QUESTION)  # type: ignore[arg-type]
    assert found.value.code == "model_not_found"


def test_requests_and_tokens_are_counted_by_model_instance_and_key(it: Launcher, client: openai.OpenAI) -> None:
    client.chat.completions.create(model="on-vllm", messages=QUESTION, temperature=0)  # type: ignore[arg-type]
    text = it.get("/metrics")[1]
    counted = [
        line for line in text.splitlines() if line.startswith("ichat_front_requests_total") and "on-vllm" in line
    ]
    assert any('key="alice"' in line and 'ichat_instance="on-vllm/0"' in line for line in counted)
    assert re.search(r'ichat_front_\w*tokens\w*\{[^}]*model="on-vllm"[^}]*\} [1-9]', text)
    assert re.search(r'^vllm:\w+\{[^}]*ichat_instance="on-vllm/0"', text, re.M)
    assert not any(secret in text for secret in KEYS.values())


def test_a_change_of_one_engine_leaves_the_other_alone(it: Launcher, client: openai.OpenAI) -> None:
    before = it.pids()
    it.configure(
        models={"on-vllm": described("vllm"), "on-sglang": described("sglang", rollout="hold", context_length=512)}
    )
    plan = it.order("plan")
    assert "models.on-sglang: replace its instances" in plan
    assert "untouched: models.on-vllm" in plan
    it.order("reload", limit_s=200)
    after = it.pids()
    assert after["on-vllm/0"] == before["on-vllm/0"]
    assert after["on-sglang/0"] != before["on-sglang/0"]
    lengths = {card.id: card.to_dict()["max_model_len"] for card in client.models.list()}
    assert (lengths["on-vllm"], lengths["on-sglang"]) == (1024, 512)
    answer = client.chat.completions.create(model="on-sglang", messages=QUESTION, temperature=0)  # type: ignore[arg-type]
    assert answer.choices[0].message.content == ANSWER


def test_without_a_key_nobody_is_served(it: Launcher) -> None:
    body = json.dumps({"model": "on-vllm", "prompt": "Hello"})
    assert ask(it.port, "POST", "/v1/completions", body, {"Content-Type": "application/json"})[0] == 401
