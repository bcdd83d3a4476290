"""The channel between the launcher and a child: what was sent before an end has left."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator

import pytest
import uvloop

from ichat.ipc import channel, messages
from ichat.ipc.channel import Channel

#: More than a socket's buffer holds, in messages of a size below the high-water mark.
_COUNT, _SIZE = 40, 32 * 1024


@pytest.fixture(params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy])
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    """The launcher's loop, and that of its children."""
    return request.param()


@pytest.fixture
async def ends() -> AsyncIterator[tuple[Channel, socket.socket]]:
    ours, theirs = channel.pair()
    one = await Channel.open(ours)
    yield one, theirs
    one.close()
    theirs.close()


def read_all(sock: socket.socket) -> bytes:
    sock.settimeout(5)
    data = b""
    while data.count(b"\n") < _COUNT:
        data += sock.recv(1 << 20)
        time.sleep(0.002)
    return data


async def test_flushed_means_that_nothing_is_left_here(ends: tuple[Channel, socket.socket]) -> None:
    one, theirs = ends
    for _ in range(_COUNT):
        one.send(messages.WorkerSuspect("x" * _SIZE))
    reading = asyncio.create_task(asyncio.to_thread(read_all, theirs))
    await one.flush(5)
    assert one._writer.transport.get_write_buffer_size() == 0
    assert len(await reading) > _COUNT * _SIZE


async def test_what_is_below_the_high_water_mark_is_waited_for_too(ends: tuple[Channel, socket.socket]) -> None:
    one, theirs = ends
    transport = one._writer.transport
    while not transport.get_write_buffer_size():  # until the socket takes no more
        one.send(messages.WorkerSuspect("x" * 1024))
        await asyncio.sleep(0)
    assert transport.get_write_buffer_size() < 64 * 1024
    flushing = asyncio.create_task(one.flush(5))
    await asyncio.sleep(0.02)
    assert not flushing.done()
    theirs.settimeout(5)
    await asyncio.to_thread(theirs.recv, 1 << 20)
    await flushing
    assert transport.get_write_buffer_size() == 0


async def test_one_who_never_reads_is_waited_for_only_so_long(ends: tuple[Channel, socket.socket]) -> None:
    one, _ = ends
    for _ in range(_COUNT):
        one.send(messages.WorkerSuspect("x" * _SIZE))
    began = time.monotonic()
    await one.flush(0.05)
    assert 0.04 <= time.monotonic() - began < 2


async def test_one_who_has_gone_is_no_failure(ends: tuple[Channel, socket.socket]) -> None:
    one, theirs = ends
    theirs.close()
    one.send(messages.Ping(1))
    await one.flush()
    one.close()
    await one.flush()
