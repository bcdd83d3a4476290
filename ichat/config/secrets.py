"""What is secret by its name, and how it is shown: nothing secret may reach a log, an error or a screen."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from pydantic import SecretStr

MASK = "********"
SHORT_SECRET = 8  # characters
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


def is_secret_variable(name: str) -> bool:
    """The same for any variable of the environment: those of other programs are also called OPENAI_KEY or DB_PASS,
    and those of files, SECRETS_DIR or TOKEN_PATH."""
    upper = name.upper()
    is_path = upper.endswith(("_DIR", "_PATH", "_FILE"))
    return not is_path and (is_secret_name(name) or upper.endswith(("KEY", "KEYS", "PASS", "PWD")))


def hide(value: Any, secrets: Iterable[str]) -> Any:
    """The value, with stars where it is or holds one of these secrets. Short ones count as whole words only."""
    if isinstance(value, dict):
        return {key: hide(inner, secrets) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [hide(inner, secrets) for inner in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return MASK if str(value) in secrets else value
    if isinstance(value, str):
        for secret in sorted(secrets, key=len, reverse=True):
            escaped = json.dumps(secret, ensure_ascii=False)[1:-1]
            for text in dict.fromkeys((secret, escaped)):
                edge = r"(?<!\w){}(?!\w)" if len(text) < SHORT_SECRET else "{}"
                value = re.sub(edge.format(re.escape(text)), MASK, value)
    return value


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
