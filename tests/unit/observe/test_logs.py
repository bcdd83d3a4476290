"""Lines on stderr that can never stop us."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator

import pytest

from ichat.observe.logs import JSONFormatter, LineWriter, TextFormatter, set_up_logs


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    for fd in (reading, writing):
        try:
            os.close(fd)
        except OSError:
            continue


def record(message: str, *args: object) -> logging.LogRecord:
    made = logging.LogRecord("ichat.launcher", logging.INFO, "", 0, message, args, None)
    made.created, made.msecs = 0.25, 250.0
    return made


def test_a_text_line_is_time_level_and_message() -> None:
    assert (
        TextFormatter().format(record("demo/0: ready pid=%d", 7))
        == "1970-01-01T00:00:00.250Z info    demo/0: ready pid=7"
    )


def test_a_json_line_has_the_subject_apart() -> None:
    line = json.loads(JSONFormatter().format(record("demo/0: ready: now pid=%d", 7)))
    assert line == {
        "time": "1970-01-01T00:00:00.250Z",
        "level": "info",
        "subject": "demo/0",
        "event": "ready: now pid=7",
    }


def test_a_message_without_a_subject_is_its_loggers() -> None:
    line = json.loads(JSONFormatter().format(record("hello")))
    assert (line["subject"], line["event"]) == ("ichat.launcher", "hello")


def test_lines_come_out_in_order(pipe: tuple[int, int]) -> None:
    writer = LineWriter(pipe[1])
    for number in range(100):
        writer.write(b"%d\n" % number)
    writer.close()
    assert os.read(pipe[0], 65536).split() == [b"%d" % number for number in range(100)]


def test_a_full_pipe_costs_lines_and_no_time_and_the_loss_is_told(pipe: tuple[int, int]) -> None:
    writer = LineWriter(pipe[1], queue_lines=10)
    began = time.monotonic()
    for _ in range(1000):
        writer.write(b"x" * 1023 + b"\n")
    assert time.monotonic() - began < 1
    assert writer.dropped > 900
    began = time.monotonic()
    writer.close(0.1)
    assert time.monotonic() - began < 1
    os.set_blocking(pipe[0], False)
    text = b""
    end = time.monotonic() + 5
    while b"lines lost" not in text and time.monotonic() < end:
        try:
            text += os.read(pipe[0], 65536)
        except BlockingIOError:
            time.sleep(0.01)
    assert b"logs: %d lines lost so far\n" % writer.dropped in text


def test_a_closed_pipe_costs_lines_and_nothing_else(pipe: tuple[int, int]) -> None:
    writer = LineWriter(pipe[1])
    os.close(pipe[0])
    for _ in range(10):
        writer.write(b"nobody hears this\n")
    writer.close()
    assert writer.dropped == 10


def test_beside_an_engine_only_our_lines_are_taken_and_the_root_logger_is_left_alone(pipe: tuple[int, int]) -> None:
    root, ours = logging.getLogger(), logging.getLogger("ichat")
    before = list(root.handlers), root.level, list(ours.handlers), ours.level
    try:
        writer = set_up_logs("text", with_libraries=False, fd=pipe[1])
        logging.getLogger("ichat.worker").info("demo/0: warm")
        logging.getLogger("engine").error("its own way")
        writer.close()
        assert (list(root.handlers), root.level) == before[:2]
        assert os.read(pipe[0], 65536).decode().endswith(" info    demo/0: warm\n")
    finally:
        ours.handlers[:], ours.propagate = before[2], True
        ours.setLevel(before[3])
