"""What a request says in its URL beside its path."""

from __future__ import annotations

import re

_ENCODED = re.compile(rb"%([0-9A-Fa-f]{2})")


def parameter(target: bytes, name: bytes) -> str | None:
    """The first value of this name in the query; None: it is not there."""
    _, mark, query = target.partition(b"?")
    if not mark:
        return None
    for pair in query.split(b"&"):
        key, _, value = pair.partition(b"=")
        if key == name:
            return decoded(value.replace(b"+", b" "))
    return None


def decoded(text: bytes) -> str:
    """Without its percent signs; clients differ in what they write with them."""
    return _ENCODED.sub(lambda found: bytes((int(found[1], 16),)), text).decode("utf-8", "replace")
