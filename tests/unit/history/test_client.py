"""The load's client writes down what happened on the wire, and does no more about it than HTTP clients do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from tests.history.checker import check
from tests.history.client import Client
from tests.history.mix import Dice, Mix, Target
from tests.history.records import Event, History, Request


class Turn:
    """One request at the server."""

    def __init__(self, number: int, asked: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        self.number, self.asked, self.writer = number, asked, writer  # the number counts those of its connection

    def frame(self, text: str, finish: str | None = None) -> dict[str, Any]:
        said = {"model": "a", "asked_model": "a", "id": self.asked["user"], "system_fingerprint": "1"}
        return said | {"choices": [{"text": text, "finish_reason": finish}]}

    def json(self, status: int, body: dict[str, Any], headers: str = "") -> None:
        data = json.dumps(body).encode()
        self.writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(data)}\r\n{headers}\r\n".encode() + data)

    def start(self) -> None:
        self.writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")

    def event(self, data: str) -> None:
        chunk = f"data: {data}\n\n".encode()
        self.writer.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))

    def end(self) -> None:
        self.writer.write(b"0\r\n\r\n")

    def answer(self, headers: str = "") -> None:
        words = [f"word{number} " for number in range(self.asked["max_tokens"])]
        if not self.asked.get("stream"):
            self.json(200, self.frame("".join(words), "length") | {"usage": {"completion_tokens": len(words)}}, headers)
            return
        self.start()
        for word in words:
            self.event(json.dumps(self.frame(word)))
        self.event(json.dumps(self.frame("", "length")))
        self.event("[DONE]")
        self.end()


class Server:
    """``script`` answers each request; a connection that it closes is closed."""

    def __init__(self) -> None:
        self.script: Callable[[Turn], Awaitable[None]] = answer
        self.connections = 0
        self.left = asyncio.Event()  # a client closed its connection

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = 0
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                await self.script(Turn(number, json.loads(await reader.readexactly(length)), writer))
                number += 1
        except (asyncio.IncompleteReadError, ConnectionError):
            self.left.set()
        finally:
            writer.close()


async def answer(turn: Turn) -> None:
    turn.answer()


class Clients:
    """One client, and what its requests came to."""

    def __init__(self, port: int, timeout_s: float = 10) -> None:
        self.finished: asyncio.Queue[Request] = asyncio.Queue()
        self.strayed: list[bytes] = []
        self.client = Client(port, timeout_s, self.finished.put_nowait, lambda _, data: self.strayed.append(data))
        self._dice = Dice("r", 0)

    async def ask(self, **mix: Any) -> Request:
        self.client.start(self._dice.request(Mix((Target("a", "a"),), large=0, **mix), 0.0))
        return await asyncio.wait_for(self.finished.get(), 10)


@pytest.fixture
async def server() -> Server:
    return Server()


@pytest.fixture
async def port(server: Server) -> AsyncIterator[int]:
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    yield listening.sockets[0].getsockname()[1]
    listening.close()


@pytest.fixture
async def clients(port: int) -> AsyncIterator[Clients]:
    some = Clients(port)
    yield some
    some.client.close()


@pytest.mark.parametrize("sse", [0, 1])
@pytest.mark.parametrize("chat", [0, 1])
async def test_a_whole_answer_is_written_down_as_the_checker_wants_it(
    clients: Clients, sse: float, chat: float
) -> None:
    requests = [await clients.ask(sse=sse, chat=chat, tokens=(3, 3)) for _ in range(3)]
    verdict = check(History(requests, [Event("load", 0, {"prefix": "r", "sent": 3})]))
    assert verdict.is_clean, verdict.report()
    assert {request.connection for request in requests} == {1}
    assert [request.reused for request in requests] == [False, True, True]
    assert all(0 < one.t_sent <= (one.t_first_byte or 0) <= one.t_end for one in requests)


async def test_a_refusal_is_written_down_with_its_code(server: Server, clients: Clients) -> None:
    async def refuse(turn: Turn) -> None:
        turn.json(503, {"error": {"message": "wait", "code": "model_loading"}}, "Retry-After: 2\r\n")

    server.script = refuse
    one = await clients.ask()
    assert (one.outcome, one.status, one.code, one.retry_after) == ("refused", 503, "model_loading", True)


async def test_a_connection_that_was_closed_while_idle_is_not_used_again(server: Server, clients: Clients) -> None:
    async def close(turn: Turn) -> None:
        turn.answer()
        await turn.writer.drain()
        turn.writer.close()

    server.script = close
    await clients.ask()
    server.script = answer
    await asyncio.wait_for(closed(clients), 5)
    one = await clients.ask()
    assert (one.outcome, one.reused, one.resent, server.connections) == ("ok", False, 0, 2)


async def closed(clients: Clients) -> None:
    while clients.client._idle:
        await asyncio.sleep(0)


async def test_a_connection_that_ends_just_when_it_is_used_again_costs_one_more_try(
    server: Server, clients: Clients
) -> None:
    async def once(turn: Turn) -> None:
        if turn.number:
            turn.writer.transport.abort()
        else:
            turn.answer()

    server.script = once
    await clients.ask()
    one = await clients.ask()
    assert (one.outcome, one.resent, one.reused, server.connections) == ("ok", 1, False, 2)


async def test_a_fresh_connection_that_ends_before_a_byte_is_a_reset(server: Server, clients: Clients) -> None:
    async def reset(turn: Turn) -> None:
        turn.writer.transport.abort()

    server.script = reset
    one = await clients.ask()
    assert (one.outcome, one.resent, server.connections) == ("reset", 0, 1)


async def test_only_one_more_try_is_made(server: Server, clients: Clients) -> None:
    await clients.ask()

    async def reset(turn: Turn) -> None:
        turn.writer.transport.abort()

    server.script = reset
    one = await clients.ask()
    assert (one.outcome, one.resent, server.connections) == ("reset", 1, 2)


async def test_a_stream_that_ends_within_is_cut_with_what_it_had_said(server: Server, clients: Clients) -> None:
    async def cut(turn: Turn) -> None:
        turn.start()
        turn.event(json.dumps(turn.frame("word0 ")))
        await turn.writer.drain()
        turn.writer.close()

    server.script = cut
    one = await clients.ask(sse=1)
    assert (one.outcome, one.text, one.done, one.resent) == ("cut", "word0 ", False, 0)


async def test_an_error_event_is_written_down(server: Server, clients: Clients) -> None:
    async def fail(turn: Turn) -> None:
        turn.start()
        turn.event(json.dumps({"error": {"message": "x", "code": "worker_lost"}}))
        turn.event("[DONE]")
        turn.end()

    server.script = fail
    one = await clients.ask(sse=1)
    assert (one.outcome, one.error_event, one.code, one.done) == ("ok", True, "worker_lost", True)


@pytest.mark.parametrize(
    "events",
    [["[DONE]", "[DONE]"], ["not json"], ['{"model": "a"}', '{"model": "b"}']],
    ids=["two ends", "no JSON", "two senders"],
)
async def test_what_does_not_belong_into_a_stream_is_strange(
    server: Server, clients: Clients, events: list[str]
) -> None:
    async def talk(turn: Turn) -> None:
        turn.start()
        for one in events:
            turn.event(one)
        turn.end()

    server.script = talk
    assert (await clients.ask(sse=1)).strange


async def test_a_second_answer_is_a_stray(server: Server, clients: Clients) -> None:
    async def twice(turn: Turn) -> None:
        turn.answer()
        turn.answer()

    server.script = twice
    assert (await clients.ask(sse=0)).outcome == "ok"
    await asyncio.wait_for(until(lambda: bool(clients.strayed)), 5)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


async def test_a_connection_that_the_server_will_close_is_not_kept(server: Server, clients: Clients) -> None:
    async def last(turn: Turn) -> None:
        turn.answer("Connection: close\r\n")

    server.script = last
    await clients.ask(sse=0)
    await clients.ask(sse=0)
    assert server.connections == 2


async def test_a_client_that_leaves_closes_its_connection(server: Server, clients: Clients) -> None:
    async def silent(turn: Turn) -> None:
        pass

    server.script = silent
    one = await clients.ask(left=1, leave_within_s=0.05)
    assert one.outcome == "left"
    if one.t_sent:
        await asyncio.wait_for(server.left.wait(), 5)


async def test_a_request_without_an_end_is_a_timeout(server: Server, port: int) -> None:
    async def silent(turn: Turn) -> None:
        pass

    server.script = silent
    assert (await Clients(port, timeout_s=0.05).ask()).outcome == "timeout"


async def test_nobody_listening_is_unreachable(unused_tcp_port: int) -> None:
    assert (await Clients(unused_tcp_port).ask()).outcome == "unreachable"


def test_the_same_seed_makes_the_same_requests() -> None:
    mix = Mix((Target("a", "a"), Target("b", "b-alias", weight=3)), left=0.5)

    def draw() -> list[tuple[bytes, float | None]]:
        dice = Dice("r", 7)
        made = [dice.request(mix, 0.0) for _ in range(200)]
        assert {one.request.kind for one in made} == {"plain", "sse"}
        assert sum(one.request.model == "b" for one in made) > 100
        assert len({one.request.id for one in made}) == 200
        return [(one.head, one.leave_after_s) for one in made]

    assert draw() == draw()
