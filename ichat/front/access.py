"""Who may use the public port, where keys are configured, and under which name."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

from ichat.front.request import Request

_SCHEME = b"bearer "
_MODELS = b"/v1/models"


def may_have_key_header(request: Request) -> bool:
    """The Messages API and its SDKs say `x-api-key`; they ask for the list of models with it, too."""
    path = request.path
    return request.dialect == "anthropic" or path == _MODELS or path.startswith(_MODELS + b"/")


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

        Takes the same time whichever key it is, or none.
        """
        if not self._digests:
            return ""
        at = max((self._number(token) for token in self._tokens(request)), default=0)
        return self._names[at - 1] if at else None

    def _number(self, token: bytes) -> int:
        """Of the key, from 1; 0: it is none of ours."""
        digest = hashlib.sha256(token).digest()
        # All of them are compared: stopping at the first would tell which one it was.
        return max(number * hmac.compare_digest(digest, known) for number, known in enumerate(self._digests, 1))

    def _tokens(self, request: Request) -> list[bytes]:
        """One: of several in one header nobody knows which one the engine would look at.

        Clients of the Messages API may send two: their own for Anthropic, and ours as Bearer, which counts.
        """
        values = request.values(b"authorization")
        tokens = [value[len(_SCHEME) :].strip() for value in values if value[: len(_SCHEME)].lower() == _SCHEME]
        if not values and may_have_key_header(request):
            values = tokens = request.api_keys
        return tokens if len(tokens) == 1 and len(values) == 1 else []
