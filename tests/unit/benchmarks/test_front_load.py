"""The load on a gateway: what it sends, what it counts, and what it refuses to count."""

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from benchmarks.contenders import free_port
from benchmarks.front.cores import Cores
from benchmarks.front.load import Client, Load, Turn, UnexpectedAnswerError, take_turn
from benchmarks.front.scripted_worker import ANSWERS, CHUNK, DONE, STREAM_HEAD, response
from tests.unit.benchmarks.conftest import Scripted

TakeTurn = Callable[..., Turn]
PLAIN = response(ANSWERS[b"plain"])


def body_of(request: bytes) -> dict[str, object]:
    head, _, body = request.partition(b"\r\n\r\n")
    assert b"Content-Length: %d" % len(body) in head
    return json.loads(body)  # type: ignore[no-any-return]


def test_no_two_conversations_are_the_same_nor_of_one_length() -> None:
    requests = Load("plain", 1).requests()
    assert len({len(request) for request in requests}) == len(requests)
    assert all("bench-plain!" in str(body_of(request)["messages"]) for request in requests)


def test_only_a_stream_asks_for_a_stream() -> None:
    assert body_of(Load("pace-3", 1, events=3).requests()[0])["stream"] is True
    assert "stream" not in body_of(Load("plain", 1).requests()[0])


def test_a_long_prompt_is_as_long_as_it_was_ordered() -> None:
    assert 256 * 1024 <= len(Load("plain", 1, prompt_bytes=256 * 1024).requests()[0]) <= 257 * 1024


@pytest.fixture
def turn(any_cores: Cores) -> TakeTurn:
    def take(port: int, load: Load, pids: Sequence[int] = ()) -> Turn:
        return take_turn(port, load, gateway=pids, workers=pids, cores=any_cores, duration_s=0.1)

    return take


@pytest.mark.parametrize(
    "load",
    [Load("plain", 3), Load("large", 2), Load("pace-4", 3, events=4), Load("flood-500", 2, events=500)],
    ids=lambda load: load.script,
)
def test_every_script_of_the_worker_is_counted(scripted: Scripted, turn: TakeTurn, load: Load) -> None:
    measured = turn(scripted.port, load, scripted.tree.pids())
    assert measured.per_s > 0
    assert measured.cpu_us > 0
    assert (measured.p50_us > 0) is not bool(load.events)
    assert measured.load_cores > 0


@contextlib.contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """A server of one connection at a time that says the same whatever it is asked."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection, contextlib.suppress(ConnectionError):
                    while connection.recv(65536):
                        connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (response(b"{}", 503), "unexpected answer: b'HTTP/1.1 503"),
        (PLAIN + b"x", "1 bytes more"),
        (b"", "no answer within"),
    ],
)
def test_an_answer_that_is_not_the_workers_is_refused(turn: TakeTurn, answer: bytes, words: str) -> None:
    with answering(answer) as port, pytest.raises(UnexpectedAnswerError, match=words):
        turn(port, Load("plain", 1))


def test_a_stream_that_ends_early_is_refused(turn: TakeTurn) -> None:
    with (
        answering(STREAM_HEAD + CHUNK * 5 + DONE) as port,
        pytest.raises(UnexpectedAnswerError, match="5 events where the worker sent 6"),
    ):
        turn(port, Load("pace-6", 1, events=6))


class NoTransport:
    def write(self, data: bytes) -> None: ...


def test_an_event_in_two_pieces_is_counted_once() -> None:
    """So it comes from a gateway that divides a stream anew."""
    answer = STREAM_HEAD + CHUNK * 3
    for cut in range(len(STREAM_HEAD), len(answer)):
        client = Client(Load("pace-4", 1, events=4), [b"request"], 0)
        client.connection_made(NoTransport())  # type: ignore[arg-type]
        client.data_received(answer[:cut])
        client.data_received(answer[cut:])
        assert client.count == 3
        assert not client.failure


def test_nobody_there_is_no_turn(turn: TakeTurn) -> None:
    with pytest.raises(UnexpectedAnswerError, match="refused"):
        turn(free_port(), Load("plain", 1))
