"""HTTPS on the public port: the same front behind a handshake, with certificates that come and go."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import struct
import time
import warnings
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ichat.config.schema import Limits, Timeouts
from ichat.ipc import messages
from tests.unit.front.certificates import trusting, write_certificate
from tests.unit.front.conftest import until
from tests.unit.front.raw_client import BODY, Client, request
from tests.unit.front.running_front import FrontUnderTest, running_front
from tests.unit.front.scripted_worker import ScriptedWorker, Turn


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    return write_certificate(tmp_path, "localhost")


@pytest.fixture
async def front(worker: ScriptedWorker, files: tuple[str, str]) -> AsyncIterator[FrontUnderTest]:
    async with running_front(worker, tls=files, receive_headers_s=0.3) as one:
        one.tls = trusting(files[0])
        yield one


def shown_by(client: Client) -> bytes:
    return client.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)


async def test_requests_and_their_answers_pass_as_without_it(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    client = await front.connect()
    for _ in range(3):
        await client.send(request())
        assert (await client.response()).status == 200
    client.close()
    assert [seen.body for seen in worker.seen] == [BODY] * 3
    assert (await front.get("/readyz")).body == b"ready: demo\n"


async def test_a_large_body_and_a_large_answer_arrive_whole(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    async def echo(turn: Turn) -> None:
        await turn.json(200, {"echo": len(turn.seen.body), "fill": "x" * 3_000_000})

    worker.script = echo
    body = b'{"model": "demo", "fill": "%b"}' % (b"y" * 3_000_000)
    response = await front.ask(request(body=body))
    assert response.json() == {"echo": len(body), "fill": "x" * 3_000_000}


async def test_it_speaks_http_1_1_over_tls_1_2_or_later(front: FrontUnderTest, files: tuple[str, str]) -> None:
    context = trusting(files[0])
    context.set_alpn_protocols(["h2", "http/1.1"])
    client = await Client.connect(front.port, context)
    spoken = client.writer.get_extra_info("ssl_object")
    assert (spoken.selected_alpn_protocol(), spoken.version()) == ("http/1.1", "TLSv1.3")
    client.close()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    client = await Client.connect(front.port, context)
    assert client.writer.get_extra_info("ssl_object").version() == "TLSv1.2"
    client.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        await Client.connect(front.port, context)


@pytest.mark.parametrize("said", [request(), b"", b"\x16\x03\x01\x02\x00\x01\x00", b"\x00" * 1000])
async def test_whoever_speaks_no_tls_is_gone_in_time_and_leaves_no_trace(
    front: FrontUnderTest, said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    client = await Client.connect(front.port)
    await client.send(said)
    assert await client.is_closed(1)
    client.close()
    assert await until(lambda: not front.front._reception.clients) < 1
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert 'code="tls_handshake"} 1\n' in (await front.get("/metrics")).body.decode()


async def test_those_who_never_finish_their_handshake_count_as_connections(
    worker: ScriptedWorker, files: tuple[str, str]
) -> None:
    async with running_front(worker, tls=files, limits={"connections": 4}, receive_headers_s=5) as front:
        front.tls = trusting(files[0])
        idle = [await Client.connect(front.port) for _ in range(4)]
        await until(lambda: len(front.front._reception.clients) == 4)
        assert (await front.ask(request())).code == "too_many_connections"
        assert (await front.get("/readyz")).status == 200
        more = [await Client.connect(front.port) for _ in range(80)]
        await until(lambda: len(front.front._reception.clients) == 4 + 64)
        for client in (*idle, *more):
            client.close()
        await until(lambda: not front.front._reception.clients)
        assert (await front.ask(request())).status == 200


async def test_a_cut_that_only_a_reset_can_tell_is_a_reset(front: FrontUnderTest, worker: ScriptedWorker) -> None:
    async def die(turn: Turn) -> None:
        await turn.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n")
        await turn.chunk(b"half of it")
        turn.abort()

    worker.script = die
    sock = socket.create_connection(("127.0.0.1", front.port))
    sock.settimeout(3)

    def ask() -> bytes:
        """The last bytes on the wire."""
        assert front.tls is not None
        with front.tls.wrap_socket(sock, server_hostname="localhost") as secure:
            secure.sendall(request().replace(b"HTTP/1.1", b"HTTP/1.0"))
            wire = socket.socket(fileno=secure.detach())
        wire.settimeout(3)
        with wire:
            while data := wire.recv(65536):
                pass
        return data

    with pytest.raises(ConnectionResetError):
        await asyncio.to_thread(ask)


async def test_a_reader_that_stalls_costs_little_memory_and_is_cut_off(
    worker: ScriptedWorker, files: tuple[str, str]
) -> None:
    async def flood(turn: Turn) -> None:
        await turn.start_events()
        while True:
            await turn.chunk(b"data: " + b"a" * 10_000 + b"\n\n")

    worker.script = flood
    async with running_front(worker, tls=files, write_stall_s=0.3) as front:
        context = trusting(files[0])

        def stall() -> tuple[ssl.SSLSocket, float]:
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", front.port))
            secure = context.wrap_socket(sock, server_hostname="localhost")
            secure.sendall(request())
            return secure, time.monotonic()

        sock, began = await asyncio.to_thread(stall)
        await until(lambda: bool(front.front._reception.clients))
        (client,) = front.front._reception.clients
        worst = 0
        while client in front.front._reception.clients:
            worst = max(worst, client.unsent_bytes)
            assert time.monotonic() - began < 5
            await asyncio.sleep(0.005)
        assert 0 < worst < 512 * 1024  # one read of the worker, and what TLS makes of it
        assert await until(lambda: worker.open_connections == 0) < 1
        sock.close()


async def test_a_refused_request_is_told_why_before_the_end(front: FrontUnderTest) -> None:
    client = await front.connect()
    await client.send(b"GET /livez HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 200_000)
    response = await client.response()
    assert (response.status, response.header("connection")) == (431, "close")
    assert await client.is_closed(2)


async def test_in_a_drain_idle_connections_end_and_requests_finish(
    front: FrontUnderTest, worker: ScriptedWorker
) -> None:
    go = asyncio.Event()

    async def wait(turn: Turn) -> None:
        await go.wait()
        await turn.json(200, {})

    worker.script = wait
    idle, busy = await front.connect(), await front.connect()
    await busy.send(request())
    await until(lambda: len(worker.seen) == 1)
    await front.tell(messages.Drain(time.monotonic() + 5))
    assert await idle.is_closed(1)
    go.set()
    response = await busy.response()
    assert (response.status, response.header("connection")) == (200, "close")
    assert await busy.is_closed(1)
    assert await front.hears(lambda message: isinstance(message, messages.FrontDrained)) == messages.FrontDrained(0)


# ---- rotation -------------------------------------------------------------------------------------------------


async def test_a_renewed_certificate_is_for_the_connections_that_come(
    front: FrontUnderTest, tmp_path: Path, files: tuple[str, str]
) -> None:
    before = await front.connect()
    write_certificate(tmp_path, "other")
    front.tls = trusting(files[0])
    async with asyncio.timeout(3):
        while True:
            try:
                after = await front.connect()
                break
            except ssl.SSLError:  # still the one before
                await asyncio.sleep(0.02)
    assert shown_by(before) != shown_by(after)
    for client in (before, after):
        await client.send(request())
        assert (await client.response()).status == 200
        client.close()


async def test_a_broken_one_is_told_once_and_the_one_before_stays(
    front: FrontUnderTest, files: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    good = Path(files[0]).read_bytes()
    Path(files[0]).write_bytes(good[:100])
    with caplog.at_level(logging.ERROR):
        await until(lambda: "not renewed" in caplog.text)
        await asyncio.sleep(0.2)  # ten more looks at it
    assert caplog.text.count("not renewed") == 1
    assert (await front.ask(request())).status == 200
    with caplog.at_level(logging.INFO):
        Path(files[0]).write_bytes(good)
        await until(lambda: "certificate loaded" in caplog.text)


async def test_a_reload_loads_it_at_once(worker: ScriptedWorker, files: tuple[str, str], tmp_path: Path) -> None:
    async with running_front(worker, tls=files, sweep_every_s=60) as front:
        write_certificate(tmp_path, "other")
        await front.tell(
            messages.Configure(Limits().model_dump(), Timeouts(sweep_every_s=60).model_dump(), api_keys={})
        )
        front.tls = trusting(files[0])
        assert (await front.ask(request())).status == 200


def _reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


async def test_a_client_that_vanishes_in_mid_stream_is_told_to_the_worker(
    front: FrontUnderTest, worker: ScriptedWorker
) -> None:
    async def trickle(turn: Turn) -> None:
        await turn.start_events()
        for _ in range(200):
            await turn.chunk(b"data: {}\n\n")
            await asyncio.sleep(0.01)

    worker.script = trickle
    client = await front.connect()
    await client.send(request())
    await client.reader.readuntil(b"\n\n")
    client.reset()
    assert await until(lambda: worker.open_connections == 0) < 0.5
