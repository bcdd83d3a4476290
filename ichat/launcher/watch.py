"""Looks at the configuration file from time to time: what changes and then stays as it is, is reloaded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from ichat.config.schema import Settings
from ichat.config.sources import config_digest, config_stamp
from ichat.errors import TemporaryError
from ichat.launcher.aside import Aside

#: A look that takes longer hangs, and the next one may find another file, or another file system.
_LOOK_S = 10.0


class Watch:
    """``known`` is the digest of the content that is served (``Document.digest``).

    Polls: events of the file system do not come through bind mounts, network file systems and the links of a
    ConfigMap, and a second is soon enough.

    ``on_change`` is called and awaited when the content is another than before, and nobody has written it for
    ``timeouts.settle_s``: a file that is being written is not read half-way. A file that is not there, or cannot be
    read, is no change: somebody is about to replace it. Neither is one whose reading hangs.
    """

    def __init__(
        self,
        path: str,
        known: str,
        settings: Callable[[], Settings],
        on_change: Callable[[], Awaitable[object]],
        reads: Aside,
    ) -> None:
        self._path, self._known, self._settings, self._on_change = path, known, settings, on_change
        self._reads = reads

    async def run(self) -> None:
        """Until cancelled. Does nothing while ``reload.watch`` is false."""
        while True:
            await asyncio.sleep(self._settings().timeouts.watch_every_s)
            if not self._settings().reload.watch:
                continue
            seen, _ = await self._look()
            if seen is not None and seen != self._known:
                await self._settle(seen)
                await self._on_change()

    async def _settle(self, seen: str) -> None:
        """Until it has not changed for a while; then that is what is known."""
        _, stamp = await self._look()
        while True:
            await asyncio.sleep(self._settings().timeouts.settle_s)
            before = stamp
            now, stamp = await self._look()
            if now is not None and now == seen and stamp == before:
                self._known = seen
                return
            seen = now or ""

    async def _look(self) -> tuple[str | None, str | None]:
        """(digest of the content, stamp of the file); None: not to be read now."""
        try:
            async with asyncio.timeout(_LOOK_S):
                return await self._reads.run(lambda: (config_digest(self._path), config_stamp(self._path)))
        except (OSError, TemporaryError):  # a TimeoutError is an OSError
            return None, None
