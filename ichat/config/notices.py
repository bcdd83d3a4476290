"""What a person should know about a configuration although nothing in it is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ichat.config.engine import Engine
from ichat.config.schema import Model, Server


def notices_of(models: Sequence[Model], engines: Mapping[str, Engine], *, is_key_in_argv: bool) -> Iterator[str]:
    if is_key_in_argv:
        yield "--api-key: every user of this machine can read a command line; use ICHAT_API_KEY_FILE instead"
    for model in models:
        yield from _of_model(model, engines.get(model.backend))


def open_port(server: Server, port: int) -> Iterator[str]:
    """A port that other machines can reach, and no key; ``port`` is the one that was taken."""
    if not server.api_keys and not _is_loopback(server.host):
        yield (
            f"server: no API key is set, and {server.host} is open to other machines: whoever reaches port {port} can "
            f"use the models. Set ICHAT_API_KEY, or ICHAT_HOST=127.0.0.1 (for a container: -p 127.0.0.1:{port}:{port})"
        )


def _is_loopback(host: str) -> bool:
    from ipaddress import ip_address

    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _of_model(model: Model, engine: Engine | None) -> Iterator[str]:
    if model.trust_remote_code:
        yield f"{model.name}: trust_remote_code is on: Python code that comes with the model will be run"
    if engine and model.memory_fraction is not None and not engine.by_setting["memory_fraction"].is_same:
        word = engine.by_setting["memory_fraction"]
        value = word.convert(model.memory_fraction) if word.convert else model.memory_fraction
        yield f"{model.name}: memory_fraction: {engine.title} gets {word.flag} {value}, {word.note}"
