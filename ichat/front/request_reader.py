"""Bytes of a client into requests, strictly and within limits: what is not plain HTTP/1.x ends here."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httptools

from ichat.front.errors import Failure, bad_request, body_too_large
from ichat.front.known_heads import KnownHeads, take_apart
from ichat.front.request import Request
from ichat.front.request_headers import TAKERS, Refused, refused

if TYPE_CHECKING:
    from ichat.config.schema import Limits
    from ichat.front.held_bodies import HeldBodies

_TLS_HANDSHAKE = 0x16
#: More than a client ever has a reason to send ahead, in one read.
_PIPELINE_LIMIT = 32
#: A long read is parsed so much at a time while it may be a head.
_HEAD_SLICE_BYTES = 16 * 1024
#: A body that nothing is done with (of a refused request, of one that the front answers by itself) is read up to this
#: size and thrown away, so that the connection can go on.
_WORTH_READING_BYTES = 64 * 1024
#: The line ends of a chunk: behind its length and behind its data.
_CHUNK_ENDS_BYTES = 4
#: Of a header line beside its name and value, and of a request line beside its target, at the least.
_HEADER_LINE_BYTES = 4
_REQUEST_LINE_BYTES = 14


_taker: Callable[[bytes], Any] = TAKERS.get


class RequestReader:
    """One connection's parser.

    ``feed`` takes bytes as they come; complete requests are then in ``complete``, in order. ``judge`` is asked once
    for each request, when its head is complete and before a byte of its body is read: a request that it objects to
    is not read any further if that would be much, and carries the failure otherwise. ``acknowledge`` is called when
    the client waits for `100 Continue` and may go on. A head that is in ``known`` was judged when it was put there.

    Whatever is no body counts as a head: headers, trailers, the extensions of chunks. So nothing that a client sends
    is without a limit, and what the parser keeps of an unfinished line stays short.

    The bodies of all that is in ``complete``, and of what arrives, are counted in ``bodies``. Whoever takes a request
    out takes over to count its body off. A request that no worker will see (``Request.is_for_worker``) has no body:
    what it sends as such is thrown away.
    """

    __slots__ = (
        "_acknowledge",
        "_bodies",
        "_chunk_bytes",
        "_head_bytes",
        "_is_at_end",
        "_is_http11",
        "_judge",
        "_keep",
        "_known",
        "_limits",
        "_parser",
        "_thrown_away_bytes",
        "complete",
        "owes_continue",
        "request",
    )

    def __init__(
        self,
        limits: Limits,
        judge: Callable[[Request], Failure | None],
        known: KnownHeads[Request],
        acknowledge: Callable[[], None],
        bodies: HeldBodies,
    ) -> None:
        self._bodies = bodies
        self._limits, self._judge, self._known, self._acknowledge = limits, judge, known, acknowledge
        self._parser = httptools.HttpRequestParser(self)
        self.request: Request | None = None  # the one that is arriving
        self.complete: deque[Request] = deque()
        # Takes a header that is passed on; None: what comes now are trailers.
        self._keep: Callable[[tuple[bytes, ...]], None] | None = None
        self._is_http11 = False  # the request that is arriving says so in its first line; else it is not known yet
        self._head_bytes = 0  # seen of the request that is arriving, less its body: an upper bound
        self._chunk_bytes = 0  # of the body's chunk that is arriving
        self._thrown_away_bytes = 0  # of a body that nothing is done with
        self.owes_continue = False  # `100 Continue`, which must not overtake the answers to what is in ``complete``
        self._is_at_end = False  # the client announced that no request follows

    @property
    def is_between_requests(self) -> bool:
        return self.request is None and not self._head_bytes

    def feed(self, data: bytes) -> Failure | None:
        """Parse; a failure means that nothing more can be read from this connection."""
        if self._is_at_end:
            return None
        size = len(data)
        if self.request is not None or self._head_bytes or size > _HEAD_SLICE_BYTES or size > self._limits.body_bytes:
            return self._parse(data)
        if (apart := take_apart(data)) is None:
            return self._parse(data)
        head, body = apart
        bodies = self._bodies
        if (known := self._known.recall(head)) is not None and bodies.count + len(body) <= bodies.limit:
            bodies.count += len(body)
            self.complete.append(known.again(body))
            return None
        failure = self._parse(data)
        if failure is None and len(self.complete) == 1 and self.complete[0].is_repeatable:
            self._known.remember(head, self.complete[0].template())
        return failure

    def _parse(self, data: bytes) -> Failure | None:
        if not self._head_bytes:
            # Asking the parser for the version costs as much as all the rest of a head.
            self._is_http11 = data.endswith(b" HTTP/1.1", 0, data.find(b"\r\n"))
        self._head_bytes += len(data)
        request = self.request
        try:
            if len(data) <= _HEAD_SLICE_BYTES or (request is not None and request.is_head_complete):
                self._parser.feed_data(data)
            else:
                self._feed_slices(data)
        except httptools.HttpParserUpgrade as upgrade:
            return self._stay_with_http(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            return None if self._is_at_end else _explain(error, data)
        except Refused as refusal:
            return refusal.failure
        request = self.request
        if request is None and self.complete:
            self._head_bytes = 0
            return None
        return self._watch_head(request)

    def release(self) -> None:
        """Nothing more will be read, nor served of what was."""
        self._parser = None  # a ring that only the garbage collector could break
        arriving, self.request = self.request, None
        for request in self.complete if arriving is None else (*self.complete, arriving):
            self._bodies.count -= len(request.body)
        self.complete.clear()

    def _stay_with_http(self, rest: bytes) -> Failure | None:
        """A client offers another protocol, such as h2c, and is served as if it had not (RFC 9110, section 7.8).

        The parser takes what follows the head for that protocol. A new one goes on where this one stopped.
        """
        request = self.request
        assert request is not None
        self._parser = httptools.HttpRequestParser(_BehindUpgrade(self))
        self._parser.feed_data(request.framing_head())
        self._head_bytes = 0
        self._keep = None
        return self._parse(rest) if rest or self.request is not None else None

    def _feed_slices(self, data: bytes) -> None:
        """Much at once: look at what it makes of a head before going on."""
        for start in range(0, len(data), _HEAD_SLICE_BYTES):
            try:
                self._parser.feed_data(data[start : start + _HEAD_SLICE_BYTES])
            except httptools.HttpParserUpgrade as upgrade:
                raise httptools.HttpParserUpgrade(start + upgrade.args[0]) from None
            if (request := self.request) is not None and not request.is_head_complete:
                self._check_size(request)

    def _watch_head(self, request: Request | None) -> Failure | None:
        """A head or a trailer that never ends: the parser keeps what it has seen of a header, however long."""
        if request is not None and request.header_count > self._limits.header_count:
            return self._too_large(f"more than {self._limits.header_count} of them").failure
        is_too_long = self._head_bytes > self._limits.url_bytes + self._limits.header_bytes
        return self._too_large(f"more than {self._limits.header_bytes} bytes").failure if is_too_long else None

    # ---- called by the parser -----------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self.request = request = Request()
        self._keep = request.headers.extend

    def on_url(self, part: bytes) -> None:
        request = self.request
        assert request is not None
        request.target += part
        if len(request.target) > (limit := self._limits.url_bytes):
            raise refused(f"URL: longer than {limit} bytes. Shorten it.", status=414, code="url_too_long")

    def on_header(self, name: bytes, value: bytes) -> None:
        if (keep := self._keep) is None:
            self._count_trailer()
            return
        take = _taker(name.lower())
        if take is None or take(self.request, value):
            keep((name, b": ", value, b"\r\n"))

    def _count_trailer(self) -> None:
        request = self.request
        assert request is not None
        request.dropped_count += 1
        if request.header_count > self._limits.header_count:
            raise self._too_large(f"more than {self._limits.header_count} of them, trailers included")

    def on_headers_complete(self) -> None:
        request = self.request
        assert request is not None
        request.is_head_complete = True
        self._keep = None  # what still comes are trailers, which no worker can be sent
        request.method = self._parser.get_method()
        if not request.target.startswith(b"/"):
            request.to_origin_form()
        request.path = request.target.partition(b"?")[0]
        self._check(request)
        request.failure = failure = self._judge(request)
        if not request.is_for_worker:
            self._thrown_away_bytes = 0
            self._refuse_useless_body(request, failure)
        elif 0 < request.content_length > self._bodies.limit - self._bodies.count:
            raise Refused(self._bodies.refusal())
        elif request.waits_for_continue and request.has_body and not request.is_http10:
            self._let_go_on()

    def on_chunk_header(self) -> None:
        self._chunk_bytes = 0

    def on_chunk_complete(self) -> None:
        """What a chunk needs for its frame is no head; the rest of it is extensions, or zeros."""
        self._head_bytes -= len(f"{self._chunk_bytes:x}") + _CHUNK_ENDS_BYTES

    def on_body(self, piece: bytes) -> None:
        request = self.request
        assert request is not None
        self._head_bytes -= len(piece)
        self._chunk_bytes += len(piece)
        if not request.is_for_worker:
            self._throw_away(request, piece)
            return
        body = request.body
        if not body:
            request.body = piece
        elif isinstance(body, bytearray):
            body += piece
        else:
            request.body = bytearray(body) + piece
        self._bodies.count += len(piece)
        if len(request.body) > self._limits.body_bytes:
            raise self._too_long()
        if self._bodies.count > self._bodies.limit:
            raise Refused(self._bodies.refusal())

    def on_message_complete(self) -> None:
        request = self.request
        assert request is not None
        if request.is_upgrade and self._parser.should_upgrade():
            return  # only its head is: see `_stay_with_http`
        self._is_http11 = False  # nothing is known of the next request
        request.keep_alive = self._parser.should_keep_alive()
        self._is_at_end = not request.keep_alive
        self.complete.append(request)
        self.request = None
        lines_bytes = request.header_count * _HEADER_LINE_BYTES + _REQUEST_LINE_BYTES
        # What is left belongs to the next request, or to lines that are longer than they need be.
        self._head_bytes = max(1, self._head_bytes - len(request.target) - request.header_bytes - lines_bytes)
        if len(self.complete) > _PIPELINE_LIMIT:
            raise refused(f"pipelining: more than {_PIPELINE_LIMIT} requests ahead. Wait for answers.")

    # ---- judging ------------------------------------------------------------------------------------------

    def _refuse_useless_body(self, request: Request, failure: Failure | None) -> None:
        """The body of a request that no worker gets is not read, if that would be much or the client waits for us."""
        is_awaited = request.waits_for_continue and request.has_body
        is_long = request.is_chunked or request.content_length > _WORTH_READING_BYTES
        if failure is None:
            if request.content_length > _WORTH_READING_BYTES:
                raise self._useless(request)
            if is_awaited and not request.is_http10:
                self._let_go_on()
        elif is_long or is_awaited:
            raise Refused(replace(failure, closes=True))

    def _throw_away(self, request: Request, piece: bytes) -> None:
        self._thrown_away_bytes += len(piece)
        if self._thrown_away_bytes > _WORTH_READING_BYTES:
            raise self._useless(request)

    def _useless(self, request: Request) -> Refused:
        shown = request.path[:128].decode("latin-1")
        words = f"body: {shown} takes none, and more than {_WORTH_READING_BYTES} bytes of it are not read. Send none."
        return refused(words, status=413, code="body_too_large")

    def _let_go_on(self) -> None:
        """Tell a client that waits for it to send its body, once it is this request's turn."""
        if self.complete:
            self.owes_continue = True
        else:
            self._acknowledge()

    def _check(self, request: Request) -> None:
        if not self._is_http11:
            self._check_version(request, self._parser.get_http_version())
        if request.host_count != 1 and not (request.is_http10 and request.host_count == 0):
            raise refused(f"Host: {request.host_count} such headers. Send one.")
        if request.method == b"CONNECT":
            raise refused("CONNECT: this is no proxy. Send the request itself.")
        if request.is_upgrade and b"websocket" in request.upgrade.lower():
            raise refused("Upgrade: there is no WebSocket here. Use plain HTTP/1.1.")
        if not request.path.startswith(b"/") and (request.path != b"*" or request.method != b"OPTIONS"):
            raise refused("URL: not a path. Send the path alone, or a whole http:// or https:// URL.")
        if request.content_length > self._limits.body_bytes:
            raise self._too_long()
        if request.content_encoding:
            shown = request.content_encoding[:32].decode("latin-1")
            message = f"Content-Encoding: {shown} is not accepted. Send the body as it is."
            raise refused(message, status=415, code="unsupported_encoding")
        self._check_size(request)

    def _check_version(self, request: Request, version: str) -> None:
        if version == "1.1":
            return
        if version != "1.0":
            raise refused(f"HTTP/{version}: not spoken here. Use HTTP/1.1.")
        request.is_http10 = True
        if request.is_chunked:
            raise refused("Transfer-Encoding: unknown to HTTP/1.0. Send Content-Length.")

    def _check_size(self, request: Request) -> None:
        if request.header_count > self._limits.header_count:
            raise self._too_large(f"more than {self._limits.header_count} of them")
        # A head cannot be longer than what has been seen, so that adding it up is rarely needed.
        if self._head_bytes > (limit := self._limits.header_bytes) and request.header_bytes > limit:
            raise self._too_large(f"more than {limit} bytes")

    def _too_long(self) -> Refused:
        return Refused(body_too_large(self._limits.body_bytes, "server.limits.body_bytes", closes=True))

    def _too_large(self, words: str) -> Refused:
        return refused(f"headers: {words}. Send fewer.", status=431, code="header_too_large")


class _BehindUpgrade:
    """A reader's callbacks for a parser that first reads a head again, of which the reader knows all."""

    def __init__(self, reader: RequestReader) -> None:
        self._reader, self._is_again = reader, True
        self.on_url, self.on_header = self._unless_again(reader.on_url), self._unless_again(reader.on_header)
        self.on_chunk_header, self.on_chunk_complete = reader.on_chunk_header, reader.on_chunk_complete
        self.on_body, self.on_message_complete = reader.on_body, reader.on_message_complete

    def _unless_again(self, callback: Callable[..., None]) -> Callable[..., None]:
        return lambda *arguments: None if self._is_again else callback(*arguments)

    def on_message_begin(self) -> None:
        if not self._is_again:
            self._reader.on_message_begin()

    def on_headers_complete(self) -> None:
        if not self._is_again:
            self._reader.on_headers_complete()
        self._is_again = False


def _explain(error: httptools.HttpParserError, data: bytes) -> Failure:
    if isinstance(error.__context__, Refused):
        return error.__context__.failure
    if isinstance(error, httptools.HttpParserCallbackError):
        raise error  # a callback of ours broke
    if data[0] == _TLS_HANDSHAKE:
        return bad_request(
            "invalid_request", "TLS: this port speaks plain HTTP. Use http://, or a proxy that ends TLS."
        )
    if data.startswith(b"PRI "):
        return bad_request("invalid_request", "HTTP/2: not spoken here. Use HTTP/1.1.")
    return bad_request("invalid_request", f"HTTP: {error}. Send a well-formed HTTP/1.1 request.")
