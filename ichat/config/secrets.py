"""What is secret by its name, and how it is shown: nothing secret may reach a log, an error or a screen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import SecretStr

MASK = "********"
_WORDS = ("api_key", "token", "password", "secret", "credential")
_HARMLESS = ("tokens", "tokenizer", "token_", "tokenization")  # max-total-tokens, tokenizer-path, token-usage …


def mask(name: str, value: Any) -> Any:
    """The value, or stars where its name or its type says that it is a secret."""
    is_secret = isinstance(value, SecretStr) or (isinstance(value, str) and is_secret_name(name))
    return MASK if is_secret and value else value


def is_secret_name(name: str) -> bool:
    """Whether a flag or variable of this name holds a secret."""
    word = name.lower().replace("-", "_")
    for harmless in _HARMLESS:
        word = word.replace(harmless, "")
    return any(secret in word for secret in _WORDS)


def masked_argv(argv: Iterable[str]) -> list[str]:
    """A command line without its secrets."""
    shown: list[str] = []
    hides_next = False
    for word in argv:
        name, equals, _ = word.partition("=")
        is_flag = word.startswith("-")
        if is_flag and is_secret_name(name):
            shown.append(f"{name}={MASK}" if equals else word)
            hides_next = not equals
        else:
            shown.append(MASK if hides_next and not is_flag else word)
            hides_next = hides_next and not is_flag
    return shown
