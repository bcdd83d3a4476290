"""The front's memory under what goes on for hours: requests, streams, refusals, clients that leave."""

from __future__ import annotations

import asyncio
from pathlib import Path

from benchmarks.front.arena import environment
from benchmarks.front.our_front import OurFront, instances_at
from tests.unit.front.raw_client import BODY, Client, request
from tests.unit.front.scripted_worker import ScriptedWorker, Turn
from tests.volume import times

#: What the front may grow by once it is warm: a fragmented heap, not a leak. Together the requests are far longer.
_ROOM_KIB = 12_000
_LONG = b'{"model": "demo", "messages": [{"role": "user", "content": "' + b"x" * 20_000 + b'"}]}'


async def engine(turn: Turn) -> None:
    if b'"stream"' in turn.seen.body:
        await turn.start_events()
        await turn.chunk(b"data: {}\n\n" * 20)
        await turn.chunk(b"data: [DONE]\n\n")
        await turn.send(b"0\r\n\r\n")
    else:
        await turn.json(200, {"x": "y" * 5000})


async def ask(client: Client, number: int) -> None:
    """Answers, streams and refusals, each with a key, an id and a length of its own."""
    streamed = b'{"model": "demo", "stream": true, "messages": []}'
    bodies = (BODY, _LONG, streamed, b'{"model": "nope-%d"}' % number, b"[%d" % number)
    await client.send(request(body=bodies[number % 5], headers=f"X-Request-Id: id-{number}\r\nX-Odd-{number}: 1\r\n"))
    assert (await client.response()).status in (200, 400, 404)


async def test_the_fronts_memory_does_not_grow(tmp_path: Path) -> None:
    """As many requests as an hour has at 50 a second. Scrapes: tests/unit/front/test_front_attacks.py."""
    count = times(180_000, 1000)
    worker = ScriptedWorker(str(tmp_path / "w.sock"))
    worker.script = engine
    await worker.start()
    (tmp_path / "front").mkdir()
    with OurFront(tmp_path / "front", environment()) as front:
        await asyncio.to_thread(front.route, instances_at([worker.path]))
        client = await Client.connect(front.port)
        for number in range(count // 5):  # warm: buffers, caches of heads, the allocator's arenas
            await ask(client, number)
        before = front.tree.rss_kib()
        for number in range(count // 5, count):
            await ask(client, number)
            worker.seen.clear()
            if number % 500 == 499:  # a client that leaves with an answer under way
                await client.send(request(body=_LONG))
                client.reset()
                client = await Client.connect(front.port)
        after = front.tree.rss_kib()
        client.close()
    await worker.stop()
    assert after - before < _ROOM_KIB, (before, after)
