"""Who may use the public port, where keys are configured, and under which name."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

from ichat.front.request import Request

_SCHEME = b"bearer "


class Keyring:
    """The API keys that are accepted, by name. None configured: everybody is admitted, as "".

    A name is what a request is counted by; the key itself goes nowhere.
    """

    def __init__(self, keys: Mapping[str, str]) -> None:
        self.replace(keys)

    def replace(self, keys: Mapping[str, str]) -> None:
        self._names = list(keys)
        # Digests have one length, so that comparing them tells nothing about the length of a key.
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys.values()]

    @property
    def has_keys(self) -> bool:
        return bool(self._digests)

    def owner(self, request: Request) -> str | None:
        """The name of the key that the request carries; None: it is not admitted.

        Takes the same time whichever key it is, or none. A browser asks by OPTIONS, without the key, whether it may
        send the request that has it.
        """
        if not self._digests or request.method == b"OPTIONS":
            return ""
        at = max((self._number(token) for token in self._tokens(request)), default=0)
        return self._names[at - 1] if at else None

    def _number(self, token: bytes) -> int:
        """Of the key, from 1; 0: it is none of ours."""
        digest = hashlib.sha256(token).digest()
        # All of them are compared: stopping at the first would tell which one it was.
        return max(number * hmac.compare_digest(digest, known) for number, known in enumerate(self._digests, 1))

    def _tokens(self, request: Request) -> list[bytes]:
        values = request.values(b"authorization")
        tokens = [value[len(_SCHEME) :].strip() for value in values if value[: len(_SCHEME)].lower() == _SCHEME]
        if request.dialect == "anthropic":
            tokens += request.values(b"x-api-key")
        # Of several nobody knows which one the engine would look at.
        return tokens if len(tokens) == 1 and len(values) <= 1 else []
