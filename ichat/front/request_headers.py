"""The headers of a request that decide how it is read; all others pass as they are."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

from ichat.front.errors import Failure, bad_request
from ichat.front.request import Request

_HOST = re.compile(rb"(?:[A-Za-z0-9._~%!$&'()*+,;=-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_CONNECTION_WORDS = frozenset((b"close", b"keep-alive", b""))


class Refused(Exception):  # noqa: N818  raised through the parser's callbacks; nothing went wrong on our side
    """The request cannot be read any further."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.code)
        self.failure = failure


def refused(message: str, *, status: int = 400, code: str = "invalid_request") -> Refused:
    return Refused(bad_request(code, message, status=status))


@functools.lru_cache(maxsize=256)
def _is_host(value: bytes) -> bool:
    return _HOST.fullmatch(value) is not None


#: What may stand around a value without being part of it (RFC 9110, section 5.5); the parser leaves it at the end.
_BLANKS = b" \t"


def _take_host(request: Request, value: bytes) -> bool:
    request.host_count += 1
    if not _is_host(value.strip(_BLANKS)):
        raise refused("Host: not a host name with an optional port.")
    return True


def _take_content_length(request: Request, value: bytes) -> bool:
    digits = value.strip(_BLANKS)
    if not digits.isdigit():
        raise refused("Content-Length: not a number.")
    request.content_length = int(digits)
    return False


def _take_transfer_encoding(request: Request, value: bytes) -> bool:
    if value.strip(_BLANKS).lower() != b"chunked":
        raise refused("Transfer-Encoding: only 'chunked' is accepted.")
    request.is_chunked = True
    return False


def _take_connection(request: Request, value: bytes) -> bool:
    lowered = value.lower()
    if lowered == b"keep-alive":  # nearly always
        return False
    words = {word.strip() for word in lowered.split(b",")}
    request.wants_close = request.wants_close or b"close" in words
    if others := words - _CONNECTION_WORDS:
        request.is_upgrade = request.is_upgrade or b"upgrade" in others
        request.nominated = (request.nominated or set()) | others
    return False


def _take_api_key(request: Request, value: bytes) -> bool:
    request.api_keys.append(value.strip(_BLANKS))
    return _drop(request, value)


def _take_origin(request: Request, value: bytes) -> bool:
    request.origin = value.strip(_BLANKS)
    return _drop(request, value)


def _take_upgrade(request: Request, value: bytes) -> bool:
    request.upgrade += value
    return _drop(request, value)


def _take_expect(request: Request, value: bytes) -> bool:
    if value.strip(_BLANKS).lower() != b"100-continue":
        raise refused("Expect: only '100-continue' is known.", status=417)
    request.waits_for_continue = True
    return False


def _take_content_encoding(request: Request, value: bytes) -> bool:
    if (encoding := value.strip(_BLANKS).lower()) not in (b"identity", b""):
        request.content_encoding = encoding
    return True


def _drop(request: Request, value: bytes) -> bool:
    request.dropped_count += 1
    request.dropped_bytes += len(value)
    return False


#: By lower-case name; True passes the header on.
TAKERS: dict[bytes, Callable[[Request, bytes], bool]] = {
    b"host": _take_host,
    b"content-length": _take_content_length,
    b"transfer-encoding": _take_transfer_encoding,
    b"connection": _take_connection,
    b"expect": _take_expect,
    b"content-encoding": _take_content_encoding,
    b"origin": _take_origin,
    # Where a Bearer counts this one may be a client's key for somebody else.
    b"x-api-key": _take_api_key,
    b"keep-alive": _drop,
    b"proxy-connection": _drop,
    b"te": _drop,
    b"trailer": _drop,
    b"upgrade": _take_upgrade,
    b"http2-settings": _drop,
    # SGLang inflates such a body without any bound on what comes out.
    b"x-body-compressed": _drop,
}
