"""What a gateway holds: at rest, for each open stream, and for readers that do not read."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from benchmarks.front.arena import Contender
from benchmarks.front.load import Load, UnexpectedAnswerError

IDLE_MB, STREAM_KB, STALLED_MB = "RSS idle, MB", "RSS for an open stream, KB", "RSS of 4 stalled readers, MB"
_STREAMS = 200
_STALLED = 4
_SETTLE_S = 1.0
_STALL_S = 1.5
_WARM = Load("pace-20", 1, events=20)
_OPEN = Load("pace-1000", 1, events=1000)
_ENDLESS = Load("flood-100000000", 1, events=100_000_000)


def measure_memory(contender: Contender) -> Mapping[str, float]:
    """All three; nothing for no gateway at all. The gateway must not have been under load before."""
    tree = contender.tree
    if tree is None:
        return {}
    with contender.awake():
        idle_kib = tree.rss_kib()
        # The first streams touch what all later ones use.
        with _open(contender.port, _WARM, _STREAMS // 10):
            time.sleep(_SETTLE_S / 2)
        before_kib = tree.rss_kib()
        with _open(contender.port, _OPEN, _STREAMS):
            time.sleep(_SETTLE_S)
            stream_kib = (tree.rss_kib() - before_kib) / _STREAMS
        time.sleep(_SETTLE_S / 2)
        before_kib = tree.rss_kib()
        with _open(contender.port, _ENDLESS, _STALLED):
            time.sleep(_STALL_S)
            stalled_kib = tree.rss_kib() - before_kib
        time.sleep(_SETTLE_S / 2)
    return {IDLE_MB: idle_kib / 1024, STREAM_KB: stream_kib, STALLED_MB: stalled_kib / 1024}


@contextmanager
def _open(port: int, load: Load, count: int) -> Iterator[None]:
    """So many streams that have begun; nobody reads on."""
    streams: list[socket.socket] = []
    try:
        for request, _ in zip(_cycle(load), range(count), strict=False):
            streams.append(socket.create_connection(("127.0.0.1", port), timeout=10))
            streams[-1].sendall(request)
        for stream in streams:
            if not (began := stream.recv(12)).startswith(b"HTTP/1.1 200"):
                raise UnexpectedAnswerError(f"a stream began with {began!r}")
        yield
    finally:
        for stream in streams:
            stream.close()


def _cycle(load: Load) -> Iterator[bytes]:
    requests = load.requests()
    while True:
        yield from requests
