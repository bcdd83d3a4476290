"""The load generator, against a server that is told how long to take, and its arithmetic."""

import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from benchmarks.load import Address, Answer, Load, evaluate, measure

LOAD = Load("demo", clients=1, is_stream=False, duration_s=10, tokens=8)


def test_a_request_across_an_edge_counts_by_its_share_inside() -> None:
    answers = [Answer(8, 9, 12), Answer(12, 13, 16), Answer(16, 17, 20), Answer(20, 20.5, 24)]
    measured = evaluate(answers, (10, 21), LOAD, cpu_s=1.1)
    assert measured.requests_per_s == pytest.approx((0.5 + 1 + 1 + 0.25) / 11)
    assert measured.tokens_per_s == pytest.approx(measured.requests_per_s * 8)
    assert measured.load_cores == pytest.approx(0.1)
    assert measured.answers == 4


def test_pauses_do_not_lower_the_rate() -> None:
    """Two clients: each waits two seconds for an answer; one pauses as long after each."""
    steady = [Answer(at, at + 1, at + 2) for at in range(10, 20, 2)]
    pausing = [Answer(at, at + 1, at + 2) for at in range(10, 20, 4)]
    load = Load("demo", clients=2, is_stream=False, duration_s=10)
    assert evaluate(steady + steady, (10, 20), load, cpu_s=0).requests_per_s == pytest.approx(1)
    assert evaluate(steady + pausing, (10, 20), load, cpu_s=0).requests_per_s == pytest.approx(1)


def test_medians_are_those_of_requests_that_began_inside() -> None:
    answers = [Answer(0, 9, 10.5), Answer(10.5, 11.5, 13), Answer(13, 15, 16), Answer(16, 19, 30)]
    measured = evaluate(answers, (10, 20), LOAD, cpu_s=0)
    assert measured.first_token_s == 2
    assert measured.latency_s == 3


def test_a_window_that_a_single_request_outlasts_is_refused() -> None:
    with pytest.raises(RuntimeError, match="too short"):
        evaluate([Answer(0, 1, 100)], (10, 20), LOAD, cpu_s=0)


class Handler(BaseHTTPRequestHandler):
    """Answers as an engine does, with as many tokens as its server was told to give."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        usage = {"completion_tokens": self.server.tokens or asked["max_tokens"]}  # type: ignore[attr-defined]
        if not asked.get("stream"):
            self.answer({"choices": [{"message": {"content": "x"}}], "usage": usage})
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        deltas = [{"role": "assistant", "content": ""}, *({"content": "x"} for _ in range(asked["max_tokens"]))]
        for event in [*({"choices": [{"delta": delta}]} for delta in deltas), {"choices": [], "usage": usage}]:
            self.chunk(b"data: " + json.dumps(event).encode() + b"\n\n")
        self.chunk(b"data: [DONE]\n\n")
        self.chunk(b"")

    def answer(self, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.flush()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as one:
        one.status, one.tokens = 200, 0  # type: ignore[attr-defined]
        one.daemon_threads = True
        Thread(target=one.serve_forever, args=(0.01,), daemon=True).start()
        yield one
        one.shutdown()


@pytest.mark.parametrize("is_stream", [False, True])
def test_the_load_counts_whole_answers_and_their_tokens(server: ThreadingHTTPServer, is_stream: bool) -> None:
    measured = measure(Address(port=server.server_port), Load("demo", 2, is_stream, duration_s=0.3, tokens=5))
    assert measured.requests_per_s > 0
    assert measured.tokens_per_s == pytest.approx(5 * measured.requests_per_s)
    assert 0 < measured.first_token_s <= measured.latency_s < 0.3
    assert measured.answers >= 2
    assert measured.load_cores > 0


def test_clients_that_pause_ask_less_and_come_to_an_end(server: ThreadingHTTPServer) -> None:
    """A pause that has not ended when the time is over is not waited for."""
    eager = measure(Address(port=server.server_port), Load("demo", 2, False, duration_s=0.2, tokens=5))
    began = time.monotonic()
    pausing = measure(Address(port=server.server_port), Load("demo", 2, False, duration_s=0.2, tokens=5, pause_s=0.2))
    assert time.monotonic() - began < 5
    assert 2 <= pausing.answers < eager.answers
    # Its rate is not that of the half second which all took, but that of the answers.
    assert pausing.requests_per_s > 3 * pausing.answers / 0.5


@pytest.mark.parametrize(("status", "tokens"), [(503, 0), (200, 4)])
def test_an_answer_that_was_not_asked_for_ends_the_measurement(
    server: ThreadingHTTPServer, status: int, tokens: int
) -> None:
    server.status, server.tokens = status, tokens  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="wanted 200 and 5 tokens"):
        measure(Address(port=server.server_port), Load("demo", 1, False, duration_s=0.1, tokens=5))


def test_a_server_that_is_not_there_ends_the_measurement() -> None:
    with pytest.raises(RuntimeError, match="load on"):
        measure(Address(socket_path="/nonexistent/http.sock"), LOAD)
