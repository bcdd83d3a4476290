"""``python -m benchmarks.front.attackers NAME PORT``: one client that wants to cost the front more than it costs itself.

Each attack goes on until its process is ended, in a process of its own so that its work is not measured with that of the
front. It waits a little between its blows: what is looked for are costs that grow without end, not a flood, in which
every server shares its core with whoever asks.
"""

from __future__ import annotations

import contextlib
import functools
import json
import socket
import sys
import time
from collections.abc import Callable, Iterator

CHAT = "/v1/chat/completions"
_PAUSE_S = 0.02
_PATIENCE_S = 5.0
_CHUNKED = b"POST %b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" % CHAT.encode()
_PROBE = b"GET /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


def request(method: str, target: str, body: bytes = b"") -> bytes:
    return f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def _chat(**fields: object) -> bytes:
    document = {"model": "demo", "messages": [{"role": "user", "content": "bench-plain!"}], **fields}
    return request("POST", CHAT, json.dumps(document).encode())


def _blows(port: int, head: bytes, piece: bytes, most: int) -> None:
    """One connection: a head, and so many pieces behind it that come to no end."""
    with socket.create_connection(("127.0.0.1", port), _PATIENCE_S) as sock, contextlib.suppress(OSError):
        sock.sendall(head)
        for _ in range(most):
            sock.sendall(piece)


def _asked(port: int, data: bytes, times: int = 50) -> None:
    """One connection: the same request again and again, each answer read to its end before the next."""
    with socket.create_connection(("127.0.0.1", port), _PATIENCE_S) as sock, contextlib.suppress(OSError):
        answers = sock.makefile("rb")
        for _ in range(times):
            sock.sendall(data)
            length = 0
            while (line := answers.readline()) not in (b"\r\n", b""):
                name, _, value = line.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            answers.read(length)
            time.sleep(_PAUSE_S)


def _unread(port: int, data: bytes) -> None:
    """One connection that reads nothing of what it asks for."""
    with socket.socket() as sock, contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(_PAUSE_S)
        sock.connect(("127.0.0.1", port))
        while True:
            with contextlib.suppress(TimeoutError):
                sock.send(data)
            time.sleep(_PAUSE_S)


def _held(port: int, head: bytes, rest: bytes, count: int = 16) -> None:
    """So many connections, each with a request that lacks its last byte."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), _PATIENCE_S))
            with contextlib.suppress(OSError):
                sock.sendall(head + rest)
        time.sleep(60)


@functools.cache
def _many_keys() -> bytes:
    """For a model that is not served, so that no worker reads it."""
    return _chat(model="nope", x={str(number): [number] for number in range(200_000)})


#: Attacks on the front itself; those on an engine through it are tested on the engines.
ATTACKS: dict[str, Callable[[int], None]] = {
    "a trailer without an end": lambda port: _blows(port, _PROBE + b"0\r\nX-T: ", b"v" * 1448, 2000),
    "a chunk extension without an end": lambda port: _blows(port, _CHUNKED + b"1;a=", b"e" * 1448, 2000),
    "bodies for probes that stay open": lambda port: _held(
        port, b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n", b"A" * 59_999, 64
    ),
    "bodies of 8 MiB that never end": lambda port: _held(
        port,
        f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {1 << 23}\r\n\r\n".encode(),
        b"A" * ((1 << 23) - 1),
        2,
    ),
    "/metrics in a loop": lambda port: _asked(port, request("GET", "/metrics")),
    "answers that are not read": lambda port: _unread(port, _chat()),
    "/metrics that is not read": lambda port: _unread(port, request("GET", "/metrics")),
    "OPTIONS in a loop": lambda port: _asked(port, request("OPTIONS", CHAT)),
    "expressions that cannot be read": lambda port: _asked(port, _chat(stop_regex="(?a)(?u)x")),
    "a body of 4 MiB of brackets": lambda port: _asked(port, request("POST", CHAT, b'{"x":' + b"[" * (1 << 22)), 1),
    "a body of 4 MiB of keys": lambda port: _asked(port, _many_keys(), 20),
    "heads that never end": lambda port: _held(port, b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n", b"", 500),
}


def _forever() -> Iterator[None]:
    while True:
        yield
        time.sleep(_PAUSE_S)


def main(name: str, port: int) -> None:
    attack = ATTACKS[name]
    for _ in _forever():
        with contextlib.suppress(OSError):
            attack(port)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
