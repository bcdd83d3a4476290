"""Calls that may block for ever, such as reads of a network file system: each in a thread that nobody waits for.

Not ``asyncio.to_thread``: its threads are few, are shared by everything, and an exit waits for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import threading
from collections.abc import Callable
from typing import TypeVar

from ichat.errors import TemporaryError

_Result = TypeVar("_Result")

#: More calls of one purpose at once are calls that hang.
_MOST = 8


class Aside:
    """The calls of one purpose (in words: `reading the configuration`).

    One purpose never waits for another. Of one purpose ``most`` calls may be under way at once: a file system that
    hangs would else take a thread with every try.
    """

    def __init__(self, purpose: str, most: int = _MOST) -> None:
        self._purpose, self._most = purpose, most
        self._under_way = 0

    async def run(self, call: Callable[[], _Result]) -> _Result:
        """What the call returns, or raises. Who is cancelled waits no more; the call goes on, and nobody is told.

        TemporaryError (E-READ-HANGS): as many calls as may be have not come back. OSError: there is no thread.
        """
        if self._under_way >= self._most:
            raise TemporaryError(
                f"{self._purpose}: {self._under_way} earlier tries have not come back. What they read hangs, such as a"
                " network file system: mend that, then try again.",
                code="E-READ-HANGS",
            )
        loop = asyncio.get_running_loop()
        done: asyncio.Future[_Result] = loop.create_future()
        self._begin(functools.partial(self._work, loop, call, done))
        return await done

    def _begin(self, work: Callable[[], None]) -> None:
        try:
            threading.Thread(target=work, name=self._purpose, daemon=True).start()
        except RuntimeError as error:  # Python's word for a thread that the system does not give
            raise BlockingIOError(errno.EAGAIN, f"{self._purpose}: {error}") from error
        self._under_way += 1

    def _work(
        self, loop: asyncio.AbstractEventLoop, call: Callable[[], _Result], done: asyncio.Future[_Result]
    ) -> None:
        try:
            result = call()
        except Exception as error:  # noqa: BLE001  whatever it is, it is raised where the result is awaited
            settle = functools.partial(self._fail, done, error)
        else:
            settle = functools.partial(self._fulfil, done, result)
        with contextlib.suppress(RuntimeError):  # the loop has gone, and we are leaving
            loop.call_soon_threadsafe(settle)

    def _fulfil(self, done: asyncio.Future[_Result], result: _Result) -> None:
        self._under_way -= 1
        if not done.done():
            done.set_result(result)

    def _fail(self, done: asyncio.Future[_Result], error: Exception) -> None:
        self._under_way -= 1
        if not done.done():
            done.set_exception(error)
