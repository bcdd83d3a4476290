"""Whether a worker is reached where the front reaches it: through its socket, which others may delete."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Literal, Protocol

from ichat.ipc.socket_question import QUESTION

#: ``silent``: it is there, and nothing has come yet: whether its loop hangs is told by its liveness.
Outcome = Literal["answers", "gone", "silent"]

#: A question and its answer take a millisecond.
_EVERY_S = 1.0
_ANSWER_S = 2.0
#: A worker that is told to listen again does so at once, or cannot.
_MENDED_S = 5.0


async def ask(path: str) -> Outcome:
    """One question through the socket at this path."""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(_ANSWER_S):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(QUESTION)
            return "answers" if (await reader.read(16)).startswith(b"HTTP/1.1 ") else "gone"
    except (TimeoutError, BlockingIOError):  # the latter: its backlog is full
        return "silent"
    except (FileNotFoundError, NotADirectoryError, ConnectionError):
        return "gone"
    except OSError:  # we have no descriptor left, or the like: nothing is known of the worker
        return "silent"
    finally:
        if writer is not None:
            with contextlib.suppress(OSError):
                writer.close()


class Reached(Protocol):
    """Who is told."""

    def lost(self) -> None:
        """Nobody reaches it: have it listen again."""

    def found(self) -> None:
        """It is reached again."""


class SocketProbe:
    """``question`` asks once; only while ``is_due`` a socket that is gone means anything."""

    def __init__(
        self, question: Callable[[], Awaitable[Outcome]], is_due: Callable[[], bool], reached: Reached
    ) -> None:
        self._question, self._is_due, self._reached = question, is_due, reached

    async def watch(self) -> None:
        """Returns when the socket is gone and stays away."""
        loop = asyncio.get_running_loop()
        lost_at: float | None = None
        while True:
            await asyncio.sleep(_EVERY_S)
            if lost_at is None and not self._is_due():
                continue
            outcome = await self._question()
            if outcome == "answers" and lost_at is not None:
                lost_at = None
                self._reached.found()
            elif outcome == "gone" and lost_at is None and self._is_due():
                lost_at = loop.time()
                self._reached.lost()
            elif lost_at is not None and loop.time() - lost_at > _MENDED_S:
                return
