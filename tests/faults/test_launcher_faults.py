"""Deaths, hangs and drains with requests in flight: launcher, front and worker as processes, the fake engine behind."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable

import pytest

from tests.launcher_process import SHM_BYTES, Launcher, shared_memory, zombies_of

QUICK = {"linger_s": 0, "drain_s": 5, "stop_s": 1}
SLOW = {"token_s": 0.05}


class Stream(threading.Thread):
    """One streamed completion of so many words, read by a client of its own."""

    def __init__(self, port: int, words: int) -> None:
        super().__init__(daemon=True)
        self._port, self._words = port, words
        self.text = ""
        self.status = 0
        self.ended_at = 0.0
        self.is_clean = False  # the body came to its end by the rules of HTTP
        self.start()

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        body = json.dumps({"model": "demo", "prompt": "Hi", "max_tokens": self._words, "stream": True})
        try:
            connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            self.status = answer.status
            while data := answer.read1():
                self.text += data.decode()
            self.is_clean = True
        except (OSError, http.client.HTTPException):
            self.is_clean = False
        finally:
            self.ended_at = time.monotonic()
            connection.close()

    @property
    def words(self) -> int:
        return self.text.count("word")

    @property
    def is_complete(self) -> bool:
        return self.is_clean and self.words == self._words and self.text.endswith("data: [DONE]\n\n")

    @property
    def has_error(self) -> bool:
        return '"error"' in self.text


def streams(it: Launcher, count: int, words: int) -> list[Stream]:
    started = [Stream(it.port, words) for _ in range(count)]
    it.wait_for(lambda: all(one.words > 0 for one in started), 5)
    return started


def kill_worker(it: Launcher) -> None:
    os.kill(it.worker_pid, signal.SIGKILL)


def kill_engine(it: Launcher) -> None:
    os.kill(it.engine_pids()[0], signal.SIGKILL)


@pytest.mark.parametrize("kill", [kill_worker, kill_engine])
def test_a_death_is_red_at_once_told_to_clients_and_followed_by_a_restart(kill: Callable[[Launcher], None]) -> None:
    before = shared_memory()
    with Launcher(engine_args={**SLOW, "shm_bytes": SHM_BYTES}, timeouts=QUICK) as it:
        it.wait_ready()
        running = streams(it, 4, words=2000)
        old = set(it.survivors()) - {it.process.pid, it.front_pid}
        front = it.front_pid
        kill(it)
        killed = time.monotonic()
        it.wait_for(lambda: it.probe("/health")[0] == 503, 0.5)
        for one in running:
            one.join(5)
            assert one.ended_at - killed < 1
            assert one.is_clean
            assert one.has_error
        it.wait_for(lambda: it.restarts == 1, 3)
        it.wait_ready()
        assert it.front_pid == front
        assert not old & set(it.survivors())
        assert zombies_of(it.process.pid) == []
        assert "was killed by SIGKILL" in it.lines()
        again = Stream(it.port, 3)
        again.join(5)
        assert again.is_complete
        assert it.stop() == 0
        it.assert_nothing_left()
    assert shared_memory() <= before


def test_a_killed_front_is_replaced_on_the_same_port_and_no_connection_is_refused() -> None:
    with Launcher(timeouts=QUICK) as it:
        it.wait_ready()
        port, worker = it.port, it.worker_pid
        os.kill(it.front_pid, signal.SIGKILL)
        # The socket is the launcher's: who connects now waits in its queue for the next front.
        deadline = time.monotonic() + 3
        answered = 0
        while time.monotonic() < deadline and answered < 50:
            with socket.create_connection(("127.0.0.1", port), 5):
                answered += 1
        assert answered == 50
        it.wait_ready()
        assert it.worker_pid == worker
        one = Stream(it.port, 3)
        one.join(5)
        assert one.is_complete
        assert it.stop() == 0
        it.assert_nothing_left()


def test_a_stopped_worker_is_red_within_eight_seconds_killed_and_replaced() -> None:
    quick = {**QUICK, "probe_every_s": 0.5, "probe_suspect_s": 0.5, "probe_limit_s": 1.5}
    with Launcher(timeouts=quick) as it:
        it.wait_ready()
        worker = it.worker_pid
        os.kill(worker, signal.SIGSTOP)
        it.wait_for(lambda: "does not answer" in it.health(), 2)
        it.wait_for(lambda: it.restarts == 1, 4)
        it.wait_ready()
        assert worker not in it.survivors()
        assert f"worker (pid {worker}) has not answered for 2 s, killed" in it.lines()
        assert it.stop() == 0
        it.assert_nothing_left()


def test_a_worker_that_goes_on_in_time_is_ready_again_and_not_restarted() -> None:
    quick = {**QUICK, "probe_every_s": 0.3, "probe_suspect_s": 0.3, "probe_limit_s": 20}
    with Launcher(timeouts=quick) as it:
        it.wait_ready()
        worker = it.worker_pid
        os.kill(worker, signal.SIGSTOP)
        it.wait_for(lambda: "does not answer" in it.health(), 2)
        os.kill(worker, signal.SIGCONT)
        it.wait_for(lambda: it.health() == "ready: demo", 2)
        assert (it.worker_pid, it.restarts) == (worker, 0)
        assert it.stop() == 0


def test_a_stopped_front_is_not_ready_and_replaced() -> None:
    quick = {**QUICK, "probe_every_s": 0.5, "probe_suspect_s": 0.5, "probe_limit_s": 1.5}
    with Launcher(timeouts=quick) as it:
        it.wait_ready()
        front = it.front_pid
        os.kill(front, signal.SIGSTOP)
        it.wait_for(lambda: it.health() == "the front does not answer", 2)
        it.wait_for(lambda: it.front_pid not in (0, front), 5)
        it.wait_ready()
        assert it.get("/livez")[0] == 200
        assert it.stop() == 0
        it.assert_nothing_left()


def test_a_stop_under_load_finishes_every_stream() -> None:
    with Launcher(engine_args=SLOW, timeouts={"linger_s": 0.3, "drain_s": 20}) as it:
        it.wait_ready()
        running = streams(it, 8, words=40)
        assert it.stop(limit_s=20) == 0
        for one in running:
            one.join(5)
            assert one.is_complete, one.text[-200:]
        it.assert_nothing_left()


def test_the_drain_deadline_ends_streams_with_an_error_and_the_code_74() -> None:
    with Launcher(engine_args=SLOW, timeouts={"linger_s": 0, "drain_s": 2}) as it:
        it.wait_ready()
        running = streams(it, 4, words=2000)
        began = time.monotonic()
        assert it.stop() == 74
        assert time.monotonic() - began < 2 + 3
        for one in running:
            one.join(5)
            assert one.has_error
            assert one.is_clean
            assert one.ended_at - began < 2
        it.assert_nothing_left()


def test_a_second_signal_ends_streams_with_an_error_within_two_seconds() -> None:
    with Launcher(engine_args=SLOW, timeouts={"linger_s": 0, "drain_s": 60}) as it:
        it.wait_ready()
        running = streams(it, 4, words=2000)
        it.process.send_signal(signal.SIGTERM)
        it.wait_for(lambda: "draining: 4 requests in flight" in it.health(), 1)
        began = time.monotonic()
        assert it.stop() == 74
        for one in running:
            one.join(5)
            assert one.has_error
            assert one.ended_at - began < 2
        assert time.monotonic() - began < 3
        it.assert_nothing_left()


def test_an_engine_stopped_mid_drain_and_a_client_that_never_reads_do_not_hold_the_end_up() -> None:
    with Launcher(timeouts={"linger_s": 0, "drain_s": 3}) as it:
        it.wait_ready()
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            deaf.connect(("127.0.0.1", it.port))
            body = json.dumps({"model": "demo", "prompt": "Hi", "max_tokens": 1_000_000, "stream": True}).encode()
            deaf.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
            deaf.sendall(b"Content-Length: %d\r\n\r\n" % len(body) + body)
            it.wait_for(lambda: it.status()["front"]["in_flight"] == 1, 3)
            for pid in it.engine_pids():
                os.kill(pid, signal.SIGSTOP)
            began = time.monotonic()
            assert it.stop() == 74
            assert time.monotonic() - began < 3 + 3
        it.assert_nothing_left()


def test_a_worker_that_ignores_its_stop_is_killed_with_all_it_started() -> None:
    with Launcher(engine_args={"stop_takes_s": 3600}, timeouts={"linger_s": 0, "drain_s": 5, "stop_s": 1}) as it:
        it.wait_ready()
        began = time.monotonic()
        assert it.stop() == 0
        assert time.monotonic() - began < 4
        it.assert_nothing_left()


def fill(pipe: int) -> None:
    """To the brim: whoever writes now without looking blocks for ever."""
    os.set_blocking(pipe, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(pipe, b"x" * 4096)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(pipe, b"x")
    os.set_blocking(pipe, True)


def test_a_log_that_nobody_reads_stops_nothing() -> None:
    reading, writing = os.pipe()
    try:
        with Launcher(engine_args={"token_s": 0}, timeouts=QUICK, stderr=writing) as it:
            fill(writing)
            it.wait_ready()
            os.kill(it.worker_pid, signal.SIGKILL)
            it.wait_for(lambda: it.restarts == 1, 5)
            it.wait_ready()
            began = time.monotonic()
            assert it.stop() == 0
            assert time.monotonic() - began < 5
            it.assert_nothing_left()
    finally:
        os.close(reading)
        os.close(writing)


def test_a_log_whose_reader_has_gone_stops_nothing() -> None:
    reading, writing = os.pipe()
    with Launcher(timeouts=QUICK, stderr=writing) as it:
        os.close(writing)
        os.close(reading)
        it.wait_ready()
        os.kill(it.worker_pid, signal.SIGKILL)
        it.wait_for(lambda: it.restarts == 1, 5)
        it.wait_ready()
        assert it.stop() == 0
        it.assert_nothing_left()
