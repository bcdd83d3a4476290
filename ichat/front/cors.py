"""Which web pages may use this server from a browser: the answers to their preflights, and what every answer says.

The front speaks for the whole port (the Fetch standard, "CORS protocol"): the routes of the engines, and what it
answers by itself, refusals included. The engines are not told where a request comes from, so that they add nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from ichat.front.replies import Reply
from ichat.front.request import Request

_ANY = b"*"
_EXPOSED = b"access-control-expose-headers: *\r\n"
_VARIES = b"vary: origin\r\n"
#: How long a browser may remember the answer to a preflight: browsers bound it themselves, by two hours at most.
_MAX_AGE_S = 7200
#: The header in which a page names those that it wants to send; they are allowed as they are.
_WANTED = b"access-control-request-headers"
_WANTED_LIMIT_BYTES = 4096


class Origins:
    """The origins that are allowed, as ``server.cors_origins`` names them; ``*`` allows all."""

    def __init__(self, allowed: Iterable[str]) -> None:
        self.replace(allowed)

    def replace(self, allowed: Iterable[str]) -> None:
        self._allowed = frozenset(origin.lower().encode() for origin in allowed)

    def lines(self, origin: bytes) -> bytes:
        """Header lines of every answer to a request from this origin; nothing for one that is not allowed."""
        if _ANY in self._allowed:
            return b"access-control-allow-origin: *\r\n" + _EXPOSED
        if origin.lower() in self._allowed:
            return b"access-control-allow-origin: %b\r\n%b%b" % (origin, _EXPOSED, _VARIES)
        return _VARIES if self._allowed else b""

    def preflight(self, request: Request, methods: tuple[bytes, ...]) -> Reply:
        """The answer to OPTIONS, for a path that takes these methods. It needs no key: a preflight never has one."""
        shown = b", ".join(methods)
        headers = [b"allow: %b\r\n" % shown]
        if request.origin and self.lines(request.origin) not in (b"", _VARIES):
            wanted = b", ".join(request.values(_WANTED))[:_WANTED_LIMIT_BYTES]
            headers.append(b"access-control-allow-methods: %b\r\n" % shown)
            headers.append(b"access-control-max-age: %d\r\n" % _MAX_AGE_S)
            if wanted:
                headers.append(b"access-control-allow-headers: %b\r\n" % wanted)
        return Reply(204, b"", b"", tuple(headers))
