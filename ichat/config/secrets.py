"""What is secret by its name, and how it is shown: nothing secret may reach a log, an error or a screen."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from pydantic import SecretStr

MASK = "********"
_WORDS = ("api_key", "apikey", "token", "password", "passwd", "passphrase", "secret", "credential")
# max-total-tokens, tokenizer-path, token-usage, bucket-time-to-first-token …
_HARMLESS = ("tokens", "tokenizer", "token_", "tokenization", "first_token", "per_token")


def mask(name: str, value: Any) -> Any:
    """The value, with stars where a name or a type says that it is a secret, also deep inside and in JSON text."""
    return _masked(value, is_secret=is_secret_name(name))


def _masked(value: Any, *, is_secret: bool) -> Any:
    if isinstance(value, dict):
        return {key: _masked(inner, is_secret=is_secret or is_secret_name(str(key))) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(inner, is_secret=is_secret) for inner in value]
    if isinstance(value, SecretStr) or (is_secret and isinstance(value, str)):
        return MASK if value else value
    if is_secret and isinstance(value, int | float) and not isinstance(value, bool):
        return MASK  # a key of digits alone, without quotes
    return _masked_json(value) if isinstance(value, str) else value


def _masked_json(text: str) -> str:
    """A text that is a JSON object or list, masked; any other text as it is."""
    if not text.lstrip().startswith(("{", "[")):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    shown = _masked(value, is_secret=False)
    return text if shown == value else json.dumps(shown, ensure_ascii=False)


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
        name, equals, value = word.partition("=")
        is_flag = word.startswith("-")
        if is_flag:
            shown.append(f"{name}={mask(name, value)}" if equals else word)
            hides_next = is_secret_name(name) and not equals
        else:
            shown.append(MASK if hides_next else mask("", word))
    return shown
