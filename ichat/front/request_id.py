"""The name of a request that the front refuses: in its answer and in the log, so that either leads to the other."""

from __future__ import annotations

import logging
import os
import re
from typing import TYPE_CHECKING

from ichat.front.errors import shown_path

if TYPE_CHECKING:
    from ichat.front.errors import Failure
    from ichat.front.request import Request

_log = logging.getLogger(__name__)

_HEADER = b"x-request-id"
#: Of a client's own name for its request; any other is replaced.
_PLAIN = re.compile(rb"[!-~]{1,128}")


def lines(request: Request | None, failure: Failure) -> tuple[bytes, ...]:
    """The header line of a refusal, which is logged with it. None where an engine has said it already.

    The client's own ``x-request-id`` counts, which the engines take too; else one is made. ``request`` None: what came
    was not even the head of a request.
    """
    said = next((line for line in failure.headers if line[:13].lower() == b"x-request-id:"), None)
    name = _name(request) if said is None else said[13:].strip()
    method, path = ("-", "-") if request is None else (request.method.decode("latin-1"), shown_path(request.path))
    _log.debug(
        "front: refused request_id=%s status=%s code=%s method=%s path=%s: %s",
        name.decode("latin-1"), failure.status, failure.code, method, path, failure.message,
    )  # fmt: skip
    return (b"x-request-id: %b\r\n" % name,) if said is None else ()


def _name(request: Request | None) -> bytes:
    given = [] if request is None else request.values(_HEADER)
    if len(given) == 1 and _PLAIN.fullmatch(given[0]):
        return given[0]
    return os.urandom(16).hex().encode()
