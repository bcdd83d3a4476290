"""The wish to leave, as signals say it: noted from the first moment on, acted upon when somebody is there to."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # this module comes first of all, and asyncio alone takes longer than everything before it
    import asyncio
    from collections.abc import Callable
    from types import FrameType


class StopSignals:
    """Counts SIGTERM and SIGINT, and passes SIGHUP on. SIGUSR1 and SIGUSR2, as of log rotation, change nothing.

    Made before the heavy imports, so that a stop in the first instants is not lost.

    Until ``hold()`` there is nothing to leave in order: a signal ends the process at once, with 0, whatever it is
    importing. From then on signals are only noted.
    """

    def __init__(self) -> None:
        self._is_held = False
        self.received: list[signal.Signals] = []
        self._listener: Callable[[], None] = lambda: None
        self._reload: Callable[[], None] = lambda: None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, lambda *_: None)  # not SIG_IGN, which the engines would inherit
        # The terminal has gone: as good as Ctrl-C. Without one SIGHUP tells a daemon to read its configuration again.
        is_tty = sys.stdin is not None and sys.stdin.isatty()
        has_terminal = may_lose_terminal(is_tty=is_tty, pid=os.getpid(), parent=os.getppid())
        signal.signal(signal.SIGHUP, self._note if has_terminal else self._note_reload)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.received.append(signal.Signals(number))
        if not self._is_held:
            # No exception: in the midst of an import C code would make another failure of it.
            os._exit(0)
        self._listener()

    def _note_reload(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._reload()

    def hold(self) -> None:
        """From now on leaving takes more than an exit."""
        self._is_held = True

    def attach(self, loop: asyncio.AbstractEventLoop, listener: Callable[[], None], reload: Callable[[], None]) -> None:
        """Call ``listener`` in the loop after each signal to stop, and now if there was one before; ``reload`` after
        each SIGHUP, where that does not mean that the terminal has gone. One that came before is as good as done.
        """
        self._listener = lambda: _wake(loop, listener)
        self._reload = lambda: _wake(loop, reload)
        if self.received:
            loop.call_soon(listener)

    def detach(self) -> None:
        self._listener = self._reload = lambda: None


def may_lose_terminal(*, is_tty: bool, pid: int, parent: int) -> bool:
    """A container's first process, and the child of one (`tini`), have a terminal that nobody closes (`tty: true`)."""
    return is_tty and 1 not in (pid, parent)


def _wake(loop: asyncio.AbstractEventLoop, listener: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(listener)
