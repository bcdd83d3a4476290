"""What a person at the log is told once everything is ready: how to talk to it, and how to ask for its state."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

from ichat.config.resolve import Resolved
from ichat.launcher.board import Board
from ichat.launcher.probe import status_command

log = logging.getLogger(__name__)


class Greeting:
    def __init__(self, listener: socket.socket, run_dir: Path, resolved: Resolved) -> None:
        self._listener, self._run_dir, self._resolved = listener, run_dir, resolved
        self._has_told = False

    @property
    def address(self) -> str:
        host, port = self._listener.getsockname()[:2]
        return f"{self._scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    @property
    def _scheme(self) -> str:
        return "https" if self._resolved.settings.server.tls_cert_file else "http"

    def tell_when_ready(self, board: Board) -> None:
        """Once."""
        if self._has_told or not board.health()[0]:
            return
        self._has_told = True
        settings, port = self._resolved.settings, self._listener.getsockname()[1]
        key = '-H "Authorization: Bearer $ICHAT_API_KEY" ' if settings.server.api_keys else ""
        name = settings.models[0].served_name
        body = f'{{"model": "{name}", "messages": [{{"role": "user", "content": "Who are you?"}}]}}'
        log.info(
            "ichat: ready. Talk to it: curl %s://127.0.0.1:%d/v1/chat/completions"
            " -H 'Content-Type: application/json' %s-d '%s'",
            self._scheme,
            port,
            key,
            body,
        )
        runtime_dir = self._resolved.sources.environ.get("XDG_RUNTIME_DIR")
        log.info("ichat: its state: %s", status_command(self._run_dir, port, runtime_dir))
