"""What a person should know about a configuration although nothing in it is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ichat.config.engine import Engine
from ichat.config.schema import Model


def notices_of(models: Sequence[Model], engines: Mapping[str, Engine], *, is_key_in_argv: bool) -> Iterator[str]:
    if is_key_in_argv:
        yield "--api-key: every user of this machine can read a command line; use ICHAT_API_KEY_FILE instead"
    for model in models:
        yield from _of_model(model, engines.get(model.backend))


def _of_model(model: Model, engine: Engine | None) -> Iterator[str]:
    if model.trust_remote_code:
        yield f"{model.name}: trust_remote_code is on: Python code that comes with the model will be run"
    if engine and model.memory_fraction is not None and not engine.by_setting["memory_fraction"].is_same:
        word = engine.by_setting["memory_fraction"]
        value = word.convert(model.memory_fraction) if word.convert else model.memory_fraction
        yield f"{model.name}: memory_fraction: {engine.title} gets {word.flag} {value}, {word.note}"
