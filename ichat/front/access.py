"""Who may use the public port, where keys are configured."""

from __future__ import annotations

import hashlib
import hmac

from ichat.front.request import Request

_SCHEME = b"bearer "


class Keyring:
    """The API keys that are accepted. None configured: everybody is admitted."""

    def __init__(self, keys: list[str]) -> None:
        # Digests have one length, so that comparing them tells nothing about the length of a key.
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    @property
    def has_keys(self) -> bool:
        return bool(self._digests)

    def admits(self, request: Request) -> bool:
        """True if the request carries a key of ours. Takes the same time whichever key it is, or none.

        A browser asks by OPTIONS, without the key, whether it may send the request that has it.
        """
        if not self._digests or request.method == b"OPTIONS":
            return True
        return any(self._is_known(token) for token in self._tokens(request))

    def _is_known(self, token: bytes) -> bool:
        digest = hashlib.sha256(token).digest()
        # All of them are compared: stopping at the first would tell which one it was.
        return sum(hmac.compare_digest(digest, known) for known in self._digests) > 0

    def _tokens(self, request: Request) -> list[bytes]:
        values = request.values(b"authorization")
        tokens = [value[len(_SCHEME) :].strip() for value in values if value[: len(_SCHEME)].lower() == _SCHEME]
        if request.dialect == "anthropic":
            tokens += request.values(b"x-api-key")
        # Of several nobody knows which one the engine would look at.
        return tokens if len(tokens) == 1 and len(values) <= 1 else []
