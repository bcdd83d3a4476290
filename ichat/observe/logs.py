"""Lines on stderr that can never stop us: a full or closed pipe costs lines, which are counted, and nothing else."""

from __future__ import annotations

import json
import logging
import os
import queue
import select
import threading
import time
from typing import Any, Literal

LogFormat = Literal["text", "json"]

QUEUE_LINES = 10_000
#: A pipe that polls as writable takes this many bytes without blocking (PIPE_BUF).
_CHUNK_BYTES = 4096
_POLL_MS = 200
_STDERR_FD = 2


class TextFormatter(logging.Formatter):
    """``<time> <level> <subject>: <what happened> key=value``; the message brings the subject itself."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802  logging's name
        del datefmt
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        return f"{moment}.{int(record.msecs):03d}Z"

    def format(self, record: logging.LogRecord) -> str:
        text = f"{self.formatTime(record)} {record.levelname.lower():<7} {record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class JSONFormatter(TextFormatter):
    """The same, one JSON object a line, with the subject apart."""

    def format(self, record: logging.LogRecord) -> str:
        subject, _, event = record.getMessage().partition(": ")
        line: dict[str, Any] = {"time": self.formatTime(record), "level": record.levelname.lower()}
        # A message without a subject is somebody else's (a library): it is the event, its logger the subject.
        line |= {"subject": subject, "event": event} if event else {"subject": record.name, "event": subject}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def formatter_for(log_format: str) -> logging.Formatter:
    return JSONFormatter() if log_format == "json" else TextFormatter()


class LineWriter:
    """Writes lines to a descriptor from a thread of its own; whoever hands a line over never waits.

    What does not fit into the bounded queue is dropped and counted; once lines flow again, one line says how many
    were lost. After the reader has gone (EPIPE) every line counts as dropped.
    """

    def __init__(self, fd: int = _STDERR_FD, *, queue_lines: int = QUEUE_LINES) -> None:
        self._fd = fd
        self._queue: queue.Queue[bytes | None] = queue.Queue(queue_lines)
        self.dropped = 0
        self._told = 0
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._write_all, name="log-writer", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Queue one line (with its newline), or count it as dropped."""
        try:
            self._queue.put_nowait(line)
        except queue.Full:
            self.dropped += 1

    def close(self, limit_s: float = 0.5) -> None:
        """Write what is queued, for so long at most; what is left then is lost. Harmless when repeated."""
        self._is_closing.set()
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            self.dropped += 1
        self._thread.join(limit_s)

    def _write_all(self) -> None:
        while (line := self._next()) is not None:
            if self.dropped > self._told and self._put(f"logs: {self.dropped} lines lost so far\n".encode()):
                self._told = self.dropped
            if not self._put(line):
                self.dropped += 1

    def _next(self) -> bytes | None:
        try:
            return self._queue.get(block=not self._is_closing.is_set())
        except queue.Empty:
            return None

    def _put(self, data: bytes) -> bool:
        """False: the reader has gone. Waits for a reader that is only slow; this thread has nothing else to do."""
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        while data:
            try:
                if not (events := poll.poll(_POLL_MS)):
                    continue
                if events[0][1] & (select.POLLERR | select.POLLNVAL):
                    return False
                data = data[os.write(self._fd, data[:_CHUNK_BYTES]) :]
            except BlockingIOError:  # somebody else's write was quicker
                continue
            except OSError:
                return False
        return True


class _LineHandler(logging.Handler):
    """Formats in the caller's thread, so that arguments may change afterwards, and hands the line to the writer."""

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._writer.write(self.format(record).encode(errors="replace") + b"\n")
        except (TypeError, ValueError):  # a wrong log call is no reason to fail a request
            self._writer.write(f"logs: unprintable record {record.msg!r}\n".encode(errors="replace"))


def set_up_logs(
    log_format: str, *, is_debug: bool = False, with_libraries: bool = True, fd: int = _STDERR_FD
) -> LineWriter:
    """Send the log lines of this process to ``fd`` through a LineWriter, which the caller closes at the end.

    ichat's own from *info* on, those of libraries from *warning* on. Beside an engine, ``with_libraries`` is False:
    what it logs goes its own way, and what it does to the root logger does not touch our lines.
    """
    writer = LineWriter(fd)
    handler = _LineHandler(writer)
    handler.setFormatter(formatter_for(log_format))
    ours = logging.getLogger("ichat")
    ours.setLevel(logging.DEBUG if is_debug else logging.INFO)
    if with_libraries:
        root = logging.getLogger()
        root.handlers[:] = [handler]
        root.setLevel(logging.WARNING)
    else:
        ours.handlers[:] = [handler]
        ours.propagate = False
    return writer


def say_last(text: str, fd: int = _STDERR_FD) -> None:
    """Write the last lines of a process, where a reader that does not read cannot hold its end up."""
    writer = LineWriter(fd)
    writer.write(text.encode(errors="replace") + b"\n")
    writer.close()


def level() -> str:
    """How much ichat's own lines of this process tell: debug, info, warning, error."""
    return logging.getLevelName(logging.getLogger("ichat").getEffectiveLevel()).lower()


def set_level(name: str) -> None:
    """One of the words of ``level``."""
    logging.getLogger("ichat").setLevel(name.upper())
