"""Looks after the run directory while we serve: cleaners of /tmp delete what has not been touched for days."""

from __future__ import annotations

import asyncio
import logging

from ichat.errors import IchatError
from ichat.launcher.health import Probes
from ichat.launcher.run_dir import RunDir

log = logging.getLogger(__name__)

_EVERY_S = 1.0


class RunDirWatch:
    """Makes directory, lock and probe socket again when they are gone, and says so; what it cannot make it says once.

    The workers' own sockets are made again by the workers (see ``socket_probe``).
    """

    def __init__(self, run_dir: RunDir, probes: Probes) -> None:
        self._run_dir, self._probes = run_dir, probes
        self._told = ""

    async def run(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            await self.look()

    async def look(self) -> None:
        path = self._run_dir.path
        try:
            was_gone = self._run_dir.make_again()
            if not self._probes.is_reached(self._run_dir.probe_socket):
                was_gone = True
                await self._probes.open(self._run_dir.probe_socket)
        except (OSError, IchatError) as error:
            if str(error) != self._told:
                log.error("run directory: %s was deleted and cannot be made again (%s); serving goes on", path, error)
            self._told = str(error)
            return
        self._told = ""
        if was_gone:
            log.warning("run directory: %s, or a part of it, was deleted by somebody; made again", path)
