"""Sockets for several front processes: one port, a queue of connections for each, and nobody else's."""

from __future__ import annotations

import socket
from collections import Counter

import pytest

from ichat.config.schema import Server
from ichat.errors import TemporaryError
from ichat.launcher.listeners import listen, of_process

SERVER = Server(host="127.0.0.1", port=0)


def close(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


def test_each_process_has_its_own_and_all_have_one_port() -> None:
    sockets = listen(SERVER, 3)
    try:
        assert len({sock.getsockname() for sock in sockets}) == 1
        assert [list(of_process(sockets, number, 3)) for number in range(3)] == [[sock] for sock in sockets]
    finally:
        close(sockets)


def test_connections_spread_over_all_of_them() -> None:
    sockets = listen(SERVER, 2)
    clients = [socket.create_connection(sockets[0].getsockname()) for _ in range(200)]
    counts: Counter[int] = Counter()
    for number, sock in enumerate(sockets):
        sock.setblocking(False)
        try:
            while True:
                sock.accept()[0].close()
                counts[number] += 1
        except BlockingIOError:
            pass
    close([*sockets, *clients])
    # The kernel chooses by a hash of the addresses: with fair coins once in 10^12 runs.
    assert sum(counts.values()) == 200
    assert min(counts.values()) > 50


@pytest.mark.parametrize(("first", "second"), [(2, 2), (1, 2), (2, 1)])
def test_a_port_that_is_in_use_is_busy_although_it_could_be_shared(first: int, second: int) -> None:
    sockets = listen(SERVER, first)
    try:
        server = SERVER.model_copy(update={"port": sockets[0].getsockname()[1]})
        with pytest.raises(TemporaryError, match="is in use"):
            listen(server, second)
    finally:
        close(sockets)
