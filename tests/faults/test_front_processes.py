"""Several front processes behind one port: what one of them suffers, the others' clients do not notice."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.launcher_process import Launcher, ask, command_line
from tests.unit.front.certificates import trusting, write_certificate

BODY = json.dumps({"model": "demo", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3})
CHAT = "/v1/chat/completions"
SOON = {"restart_backoff_s": 0.01, "linger_s": 0, "drain_s": 5}
KEYS = {"api_keys": {"alice": "sk-alice-secret", "bob": "sk-bob-secret"}}


@pytest.fixture
def two() -> Iterator[Launcher]:
    with Launcher(front={"processes": 2}, timeouts=SOON) as it:
        it.wait_ready()
        it.wait_for(lambda: len(fronts(it)) == 2 and up(it) == 2, 10)
        yield it
        assert it.stop() == 0
        it.assert_nothing_left()


def fronts(it: Launcher) -> list[int]:
    return sorted(pid for pid in it.survivors() if "-m ichat.front" in command_line(pid))


def up(it: Launcher) -> int:
    """How many processes tell their numbers."""
    return len(set(re.findall(r'ichat_front_connections\{process="(\d)"\}', it.get("/metrics")[1])))


def chat(it: Launcher) -> int:
    return ask(it.port, "POST", CHAT, BODY, {"Content-Type": "application/json"})[0]


def count(text: str, name: str, *labels: str) -> int:
    found = re.findall(rf"^{name}\{{([^}}]*)\}} (\d+)", text, re.M)
    return sum(int(value) for shown, value in found if all(label in shown for label in labels))


def test_each_serves_and_any_of_them_tells_the_numbers_of_all(two: Launcher) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: chat(two), range(100))) == {200}
    # Whichever is asked, and for each of them, as often as it may take to ask both.
    for _ in range(6):
        text = two.get("/metrics")[1]
        assert count(text, "ichat_front_requests_total", 'status="2xx"') == 100
        for process in ("0", "1"):
            # By a hash of the addresses: less than 20 of 100 happens once in 10^10 times.
            assert count(text, "ichat_front_requests_total", f'process="{process}"') >= 20


def test_a_killed_one_is_replaced_alone_while_the_other_serves(two: Launcher) -> None:
    victim, other = fronts(two)
    held = [socket.create_connection(("127.0.0.1", two.port)) for _ in range(20)]
    os.kill(victim, signal.SIGKILL)
    statuses = [chat(two) for _ in range(100)]
    # Connections that the kernel gives to the dead one wait in its socket for its successor.
    assert set(statuses) == {200}
    assert two.health() == "ready: demo"
    two.wait_for(lambda: len(fronts(two)) == 2 and up(two) == 2, 10)
    assert other in fronts(two)
    assert victim not in fronts(two)
    for sock in held:
        sock.close()


def test_a_stopped_one_does_not_hold_up_the_numbers_of_the_other(two: Launcher) -> None:
    victim = fronts(two)[0]
    os.kill(victim, signal.SIGSTOP)
    try:
        for _ in range(20):
            began = time.monotonic()
            status, text = two.get("/metrics", timeout_s=4)
            if status == 200:  # else it was the stopped one's to answer
                assert time.monotonic() - began < 4
                assert "ichat_front_silent_processes 1\n" in text
                break
        else:
            pytest.fail("twenty connections in a row went to the stopped process")
    finally:
        os.kill(victim, signal.SIGCONT)


def test_a_stop_waits_for_the_requests_of_all_and_counts_what_it_cuts_off() -> None:
    slow = {"token_s": 0.5}
    body = json.dumps({"model": "demo", "messages": [], "max_tokens": 60})
    with Launcher(front={"processes": 2}, timeouts=SOON | {"drain_s": 2}, engine_args=slow) as it:
        it.wait_ready()
        it.wait_for(lambda: up(it) == 2, 10)
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(ask, it.port, "POST", CHAT, body) for _ in range(8)]
            it.wait_for(lambda: it.status()["front"]["in_flight"] == 8, 5)
            assert it.stop() == 74
            assert [one.result()[0] for one in asked] == [503] * 8
        assert re.search(r"requests were cut off aborted=8", it.lines())
        it.assert_nothing_left()


def test_requests_count_by_the_name_of_their_key_and_the_key_is_nowhere() -> None:
    with Launcher(front={"processes": 2}, timeouts=SOON, server=KEYS) as it:
        it.wait_ready()
        for key, times in (("sk-alice-secret", 3), ("sk-bob-secret", 2), ("sk-wrong-secret", 1)):
            for _ in range(times):
                ask(it.port, "POST", CHAT, BODY, {"Authorization": f"Bearer {key}"})
        text = it.get("/metrics")[1]
        assert count(text, "ichat_front_requests_total", 'key="alice"', 'status="2xx"') == 3
        assert count(text, "ichat_front_requests_total", 'key="bob"', 'status="2xx"') == 2
        shown = [text, json.dumps(it.status()), *(command_line(pid) for pid in it.survivors())]
        shown += [Path(f"/proc/{pid}/environ").read_bytes().decode() for pid in it.survivors()]
        assert it.stop() == 0
        shown.append(it.lines())
        assert [where for where in shown if "-secret" in where] == []


# ---- HTTPS ----------------------------------------------------------------------------------------------------


def secure_get(port: int, cert: str, path: str) -> bytes:
    sock = socket.create_connection(("127.0.0.1", port), 5)
    with sock, trusting(cert).wrap_socket(sock, server_hostname="localhost") as secure:
        secure.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while data := secure.recv(65536):
            answer += data
        return answer


def test_with_a_certificate_the_port_speaks_https_and_the_probe_socket_stays_as_it_is(tmp_path: Path) -> None:
    cert, key = write_certificate(tmp_path, "localhost")
    tls = {"tls_cert_file": cert, "tls_key_file": key}
    with Launcher(front={"processes": 2}, timeouts=SOON, server=tls) as it:
        it.wait_ready()
        assert it.health() == "ready: demo"
        it.wait_for(lambda: "curl https://127.0.0.1:" in it.lines(), 3)
        assert secure_get(it.port, cert, "/readyz").endswith(b"ready: demo\n")
        assert it.get("/readyz")[0] == 0
        write_certificate(tmp_path, "localhost")
        it.wait_for(lambda: accepts(it.port, cert), 10)
        assert it.stop() == 0


def accepts(port: int, cert: str) -> bool:
    try:
        return secure_get(port, cert, "/readyz").endswith(b"ready: demo\n")
    except ssl.SSLError:
        return False


def test_a_front_that_starts_while_the_files_do_not_fit_says_so_and_is_tried_again(tmp_path: Path) -> None:
    cert, key = write_certificate(tmp_path, "localhost")
    tls = {"tls_cert_file": cert, "tls_key_file": key}
    with Launcher(timeouts=SOON, server=tls) as it:
        it.wait_ready()
        good = Path(key).read_text()
        Path(key).write_text("garbage")
        os.kill(it.front_pid, signal.SIGKILL)
        it.wait_for(lambda: "Put back a chain and its key" in it.lines(), 10)
        Path(key).write_text(good)
        it.wait_for(lambda: it.health() == "ready: demo", 10)
        assert accepts(it.port, cert)
        assert "Traceback" not in it.lines()
        assert it.stop() == 0
