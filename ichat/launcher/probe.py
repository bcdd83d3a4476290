"""The asking side of the probe socket: finds a running ichat and asks it once."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ichat.launcher.run_dir import CONTAINERS, PROBE_SOCKET, choose

_LIMIT_S = 2.0
_DEFAULT_PORT = "8000"


def probe_socket(environ: Mapping[str, str]) -> Path:
    """Where an ichat with this environment answers: as the `entrypoint` script finds it, keep the two alike."""
    port = environ.get("ICHAT_PORT") or environ.get("ICHAT_SERVER__PORT")
    setting = environ.get("ICHAT_RUN_DIR") or environ.get("ICHAT_SERVER__RUN_DIR")
    run_dir = choose(setting, port or _DEFAULT_PORT, environ.get("XDG_RUNTIME_DIR"))
    if not (setting or port or (run_dir / PROBE_SOCKET).is_socket()):
        # One that runs on a port from the YAML file or the command line; of several none is meant.
        prefix = run_dir.name.rpartition("-")[0] or run_dir.name
        others = list(run_dir.parent.glob(f"{prefix}-*/{PROBE_SOCKET}"))
        if len(others) == 1 and others[0].lstat().st_uid == os.geteuid():
            return others[0]
    return run_dir / PROBE_SOCKET


def status_command(run_dir: Path, port: int, xdg_runtime_dir: str | None) -> str:
    """What to type, from another terminal without any setting, to be told of the ichat in this directory."""
    if run_dir == CONTAINERS:
        return "ichat status"  # in the container: docker exec
    if run_dir == choose(None, _DEFAULT_PORT, xdg_runtime_dir):
        return "./entrypoint status"
    if run_dir == choose(None, port, xdg_runtime_dir):
        return f"ICHAT_PORT={port} ./entrypoint status"
    return f"ICHAT_RUN_DIR={shlex.quote(str(run_dir))} ./entrypoint status"


def ask_health(path: Path) -> tuple[bool, str]:
    """(ready, the line of words). Never raises: who does not answer is not ready."""
    code, body = _ask(path, "/health")
    if code in (200, 503):
        return code == 200, body.decode(errors="replace").strip()
    return False, f"not running: nobody answers in {path.parent}"


def ask_status(path: Path) -> dict[str, Any] | None:
    """What the launcher knows; None when nobody answers."""
    code, body = _ask(path, "/status")
    with contextlib.suppress(ValueError):
        if code == 200:
            status: dict[str, Any] = json.loads(body)
            return status
    return None


def order(path: Path, method: str, target: str) -> dict[str, Any] | None:
    """Have a command carried out, however long it takes; None when nobody answers."""
    _, body = _ask(path, target, method, limit_s=None)
    with contextlib.suppress(ValueError):
        answer: dict[str, Any] = json.loads(body)
        return answer
    return None


def _ask(path: Path, what: str, method: str = "GET", *, limit_s: float | None = _LIMIT_S) -> tuple[int, bytes]:
    """(0, nothing) when nobody answers."""
    answer = b""
    with contextlib.suppress(OSError, ValueError, IndexError), socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(limit_s)
        sock.connect(str(path))
        sock.sendall(f"{method} {what} HTTP/1.0\r\n\r\n".encode())
        while data := sock.recv(64 * 1024):
            answer += data
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), body
    return 0, b""


def table(status: Mapping[str, Any]) -> list[str]:
    """The lines that a person wants to see."""
    header = ("MODEL", "INSTANCE", "BACKEND", "STATE", "PID", "UP", "RESTARTS", "WORDS")
    rows = [
        (
            one["model"],
            one["instance"],
            one["backend"],
            one["state"],
            str(one["pid"] or "-"),
            _duration(one["uptime_s"]),
            str(one["restarts"]),
            one["words"],
        )
        for one in status["instances"]
    ]
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (header, *rows)]
    front = status["front"]
    return [
        f"{status['words']} (up {_duration(status['uptime_s'])})",
        f"front: {front['words']}, pid {front['pid'] or '-'}, {front['in_flight']} in flight",
        "",
        *(line.rstrip() for line in lines),
    ]


def _duration(duration_s: float | None) -> str:
    if duration_s is None:
        return "-"
    minutes, seconds = divmod(int(duration_s), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{seconds:02d}s" if minutes else f"{seconds}s"
