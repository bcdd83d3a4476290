"""The thread that starts an engine, and then owns it."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class SystemExitError(RuntimeError):
    """Library code called ``sys.exit`` in the owner thread."""


class OwnerThread:
    """Runs blocking work, one piece after the other, in one thread that never ends.

    Importing an engine and loading a model block for long, and the event loop must answer signals meanwhile.
    The thread outlives its work because children of the engine ask the kernel to be killed with their parent
    (PR_SET_PDEATHSIG), and for the kernel the parent is the thread that started them. It is one thread, because
    a fork is safe only while no other thread is at work. It dies with the process.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def call(self, work: Callable[[], T]) -> T:
        """The result, or exception, of ``work``. A caller that is cancelled leaves the work running."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[T] = loop.create_future()
        self._work.put(lambda: _settle_later(loop, outcome, work))
        return await outcome

    def _run(self) -> None:
        while True:
            self._work.get()()


def _settle_later(loop: asyncio.AbstractEventLoop, outcome: asyncio.Future[Any], work: Callable[[], Any]) -> None:
    result: Any = None
    error: BaseException | None = None
    try:
        result = work()
    except SystemExit as exit_:
        error = SystemExitError(f"a library called sys.exit({exit_.code!r})")
    except BaseException as raised:  # noqa: BLE001  it is not swallowed: the caller gets it
        error = raised

    def settle() -> None:
        if outcome.done():
            return
        if error is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(result)

    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(settle)
