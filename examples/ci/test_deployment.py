"""What a client may expect of a deployment. The last test stops it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

QUESTION = [{"role": "user", "content": "Who are you?"}]
GRACE_S = 40  # stop_grace_period


def reasons_in(chunks):
    return [one.finish_reason for chunk in chunks for one in chunk.choices if one.finish_reason]


def test_it_is_ready(deployment):
    assert {path: deployment.status_of(path) for path in ("/livez", "/readyz", "/startupz", "/health")} == {
        "/livez": 200, "/readyz": 200, "/startupz": 200, "/health": 200,
    }  # fmt: skip


def test_docker_says_that_it_is_healthy(deployment):
    end = time.monotonic() + 30  # the next probe of HEALTHCHECK
    while (health := deployment.inspect(".State.Health.Status")) != "healthy" and time.monotonic() < end:
        time.sleep(1)
    assert health == "healthy"


def test_it_lists_the_model(client, model):
    assert model in [one.id for one in client.models.list()]


def test_without_the_key_nobody_is_served(deployment):
    stranger = openai.OpenAI(base_url=f"{deployment.url}/v1", api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        stranger.models.list()


def test_it_answers(client, model):
    answer = client.chat.completions.create(model=model, messages=QUESTION, max_tokens=32, temperature=0)
    (choice,) = answer.choices
    assert choice.message.content or getattr(choice.message, "reasoning_content", None)
    assert choice.finish_reason in ("stop", "length")
    assert answer.usage.completion_tokens > 0


def test_it_streams(client, model):
    options = {"include_usage": True}
    chunks = list(
        client.chat.completions.create(
            model=model, messages=QUESTION, max_tokens=32, temperature=0, stream=True, stream_options=options
        )
    )
    assert len(chunks) > 2
    assert reasons_in(chunks) in (["stop"], ["length"])
    assert chunks[-1].usage.completion_tokens > 0


def test_it_serves_several_at_once(client, model):
    def ask(number):
        prompt = [{"role": "user", "content": f"Question {number}: who are you?"}]
        return client.chat.completions.create(model=model, messages=prompt, max_tokens=16).choices[0].finish_reason

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(8))) <= {"stop", "length"}


@pytest.mark.parametrize(
    ("wrong", "raised"),
    [
        ({"model": "no-such-model"}, openai.NotFoundError),
        ({"max_tokens": -1}, openai.BadRequestError),
        ({"messages": "not a list"}, openai.BadRequestError),
    ],
    ids=["model", "number", "type"],
)
def test_an_error_has_the_shape_that_clients_of_openai_know(client, model, wrong, raised):
    with pytest.raises(raised) as caught:
        client.chat.completions.create(**({"model": model, "messages": QUESTION, "max_tokens": 8} | wrong))
    assert caught.value.message
    assert {"message", "type", "code"} <= set(caught.value.body)


def test_metrics_can_be_scraped(deployment):
    assert deployment.status_of("/metrics") == 200


def test_a_stop_lets_a_stream_end_and_exits_with_0(deployment, client, model):
    """Stands last: afterwards there is nobody to ask."""
    stream = client.chat.completions.create(model=model, messages=QUESTION, max_tokens=64, temperature=0, stream=True)
    first = next(iter(stream))
    with ThreadPoolExecutor(1) as pool:
        began = time.monotonic()
        stopped = pool.submit(deployment.compose, "stop")
        reasons = reasons_in([first, *stream])
        stopped.result()
    assert reasons in (["stop"], ["length"])
    assert deployment.inspect(".State.ExitCode") == "0"
    assert time.monotonic() - began < GRACE_S
