"""What children print: read always, so that a blocked log never blocks an engine, and passed on line by line."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from typing import BinaryIO

from ichat.observe.logs import LineWriter

_READ_BYTES = 64 * 1024
#: A progress bar redraws one line for minutes; a line that never ends must not fill the memory.
_LONGEST_LINE_BYTES = 16 * 1024
_LINE_END = re.compile(rb"\r\n|\n|\r")


class Output:
    """Makes pipes for children and copies their lines to the log, verbatim; in JSON what is not JSON is wrapped."""

    def __init__(self, writer: LineWriter, log_format: str) -> None:
        self._writer, self._is_json = writer, log_format == "json"
        self._rest: dict[int, bytes] = {}

    def open(self, subject: str) -> BinaryIO:
        """The end to write to: the caller gives it to a child and closes it. Ours closes when all of them have."""
        ours, theirs = os.pipe()
        os.set_blocking(ours, False)
        self._rest[ours] = b""
        asyncio.get_running_loop().add_reader(ours, self._read, ours, subject)
        return open(theirs, "wb", buffering=0)  # noqa: PTH123  a descriptor

    def close(self) -> None:
        """Copy what is there and stop."""
        for fd in list(self._rest):
            self._read(fd, "ichat")
            if fd in self._rest:
                self._close(fd, "ichat")

    def _read(self, fd: int, subject: str) -> None:
        try:
            data = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._close(fd, subject)
            return
        *lines, rest = _LINE_END.split(self._rest[fd] + data)
        if len(rest) > _LONGEST_LINE_BYTES:
            lines, rest = [*lines, rest], b""
        self._rest[fd] = rest
        for line in lines:
            self._pass_on(subject, line)

    def _close(self, fd: int, subject: str) -> None:
        asyncio.get_running_loop().remove_reader(fd)
        os.close(fd)
        self._pass_on(subject, self._rest.pop(fd))

    def _pass_on(self, subject: str, line: bytes) -> None:
        if not line.strip():
            return
        if self._is_json and not line.startswith(b"{"):
            moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            text = line.decode(errors="replace")
            line = json.dumps({"time": moment, "level": "info", "subject": subject, "line": text}).encode()
        self._writer.write(line + b"\n")
