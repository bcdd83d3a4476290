"""Our front as the launcher starts it, and what the launcher would tell it."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from benchmarks.front.scripted_worker import MODEL
from benchmarks.machine import ROOT
from benchmarks.process_tree import ProcessTree
from ichat.config.schema import Limits, Timeouts
from ichat.ipc import channel, messages

NAME = "ichat's front"
#: Of the environment that the launcher starts it from.
PYTHON = ROOT / ".venvs" / "ichat" / "bin" / "python"
_PATIENCE_S = 10.0


class OurFront:
    """``with`` one: it accepts connections at ``port``, and knows no worker until it is told one."""

    def __init__(self, folder: Path, env: dict[str, str], python: Path = PYTHON) -> None:
        if not python.exists():
            raise RuntimeError(f"{python}: no such file. Run `make setup`.")
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.port: int = self._listener.getsockname()[1]
        self._ours, self._theirs = channel.pair()
        fds = (self._theirs.fileno(), self._listener.fileno())
        argv = [str(python), "-m", "ichat.front", f"--control-fd={fds[0]}", f"--listen-fd={fds[1]}"]
        self.tree = ProcessTree(argv, env=env, folder=folder, pass_fds=fds)
        self._heard = b""

    def __enter__(self) -> Self:
        self.tree.__enter__()
        self._theirs.close()
        limits, timeouts = Limits().model_dump(mode="json"), Timeouts().model_dump(mode="json")
        try:
            self._ours.settimeout(_PATIENCE_S)
            self.tell(messages.StartFront(limits, timeouts, {}))
            self.wait_for(messages.FrontUp)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.close()  # it leaves when the launcher is gone; a signal alone ends no stream, and not the front
        try:
            self.tree.__exit__()
        finally:
            self._listener.close()

    def tell(self, message: messages.Message) -> None:
        self._ours.sendall(channel.encode(message))

    def wait_for(self, kind: type[messages.Message]) -> messages.Message:
        """The next message of that kind; others are passed over. RuntimeError when it does not come."""
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            line, newline, rest = self._heard.partition(b"\n")
            if newline:
                self._heard = rest
                message = channel.decode(line)
                if isinstance(message, kind):
                    return message
                continue
            try:
                data = self._ours.recv(65536)
            except TimeoutError:
                break
            if not data:
                break
            self._heard += data
        raise RuntimeError(f"the front did not say {kind.__name__}.\nIt said: {self.tree.said()[-3000:]}")

    def announce(self, instances: Sequence[messages.Instance], others: Sequence[messages.Instance] = ()) -> None:
        """One ready model with these instances; the others live, and are sent nothing new."""
        model = messages.RouteModel(MODEL, [MODEL], "fake", "ready", "", time.time(), list(instances))
        self.tell(messages.Routes([model], was_ready=True, others=list(others)))

    def route(self, instances: Sequence[messages.Instance]) -> None:
        """The same, and obeyed when this returns."""
        self.announce(instances)
        self.settle()

    def settle(self) -> None:
        number = time.monotonic_ns()
        self.tell(messages.Ping(number))
        self.wait_for(messages.Pong)


def instances_at(sockets: Sequence[str], incarnation: str = "a") -> list[messages.Instance]:
    return [messages.Instance(f"{MODEL}/{number}", incarnation, path) for number, path in enumerate(sockets)]
