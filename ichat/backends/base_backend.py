"""The contract of a backend, and the one lifecycle that both engines share."""

from __future__ import annotations

import abc
import asyncio
import contextlib
import logging
import re
import shutil
import time
from collections.abc import Coroutine, Hashable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from ichat.backends import hub
from ichat.backends.control import Control
from ichat.backends.engine_control import EngineControl
from ichat.backends.engine_processes import EngineProcesses
from ichat.backends.failures import explain_start_failure
from ichat.backends.framework_args import FrameworkArgs
from ichat.backends.http_server import HTTPServer
from ichat.backends.monitor import Monitor, scan_while
from ichat.config.sources import process_environment
from ichat.errors import EngineError, IchatError
from ichat.system.activity import Activity

log = logging.getLogger(__name__)

_POLL_S = 0.05
_WATCH_S = 10.0  # a process that a warm-up went through has its title long before; a busy machine takes its time


class BaseBackend(abc.ABC):
    """One engine with one model, in this process.

    The caller may rely on this:

    - ``run()`` starts the engine, serves its app on ``framework_args.socket_path``, warms it up with a real
      request, sets ``backend_ready_event`` and watches the engine. It returns when ``request_stop()`` was called
      and every request has had its end, and raises an ``IchatError`` when the start or the engine fails. Either
      way nothing of the engine is left: ``run()`` ends with ``cleanup()``.
    - ``backend_ready_event`` is set only after a token (or a vector) has come out, and cleared before any stop.
    - ``wait_for_server_ready()`` waits for that event; it does not return when the start fails, so await it
      beside ``run()``.
    - ``control()`` commands the running engine (see ``engine_control.ACTIONS``) and returns what came of it; a
      ``CommandError`` says why it did not. While the engine rests by command the event is cleared too.
    - ``get_backend_args()`` is the engine's own, fully parsed argument object; RuntimeError before it is parsed.
    - ``cleanup()`` frees everything: the HTTP server, sockets, shared memory, temporary files, every process of the
      tree. It may be called at any time, repeatedly, also after a failed start.

    All methods belong to one event loop, the one that also owns the process's signals.
    """

    #: Titles of the processes whose end is the engine's end.
    vital_processes: ClassVar[re.Pattern[str]]

    def __init__(
        self, framework_args: FrameworkArgs, backend_argv: list[str], backend_ready_event: asyncio.Event
    ) -> None:
        self.framework_args, self.backend_argv = framework_args, backend_argv
        self.backend_ready_event = backend_ready_event
        self.timeouts, self.news = framework_args.timeouts, framework_args.news
        self.processes = EngineProcesses(self.vital_processes, self.fail)
        self.http: HTTPServer | None = None
        self.was_cut_off = False  # requests were ended by the drain's deadline
        self._control = Control(self)
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._failed = asyncio.Event()
        self._failure: IchatError | None = None
        self._warm_up_s = 0.0
        self._cleaning = asyncio.Lock()

    # ---- what an engine fills in, in the order in which it is called ------------------------------------------

    @abc.abstractmethod
    async def parse(self) -> None:
        """Import the engine and parse ``backend_argv`` with its own parser; ConfigError when it refuses them."""

    @abc.abstractmethod
    async def start_engine(self) -> None:
        """Load the model; the engine's processes run when it returns."""

    @abc.abstractmethod
    async def start_server(self) -> HTTPServer:
        """Build the engine's own app and serve it on the unix socket."""

    @abc.abstractmethod
    async def warm_up(self) -> None:
        """One real request through the whole path; raises unless a token or a vector came out."""

    @abc.abstractmethod
    async def check_answer(self) -> None:
        """The same after other weights were loaded; raises too when its probabilities are no numbers."""

    @abc.abstractmethod
    async def probe(self, rank: int) -> None:
        """Ask every process of the rank for a sign of life, and what all ranks share; as long as it takes."""

    @abc.abstractmethod
    def in_flight(self) -> int:
        """Requests inside the engine, probes not counted."""

    @abc.abstractmethod
    async def stop_engine(self) -> None:
        """Ask the engine to leave. Bounded by the caller; whatever remains is killed afterwards."""

    @abc.abstractmethod
    def get_backend_args(self) -> Any:
        """The engine's own, fully parsed argument object."""

    @abc.abstractmethod
    def tasks(self) -> list[str]:
        """What the model can do ("generate", "embed" …); known after the start."""

    @abc.abstractmethod
    def engine_control(self) -> EngineControl:
        """The engine's side of the commands; called only after the start."""

    # ---- what an engine tells of its work; asked twice a second, so each answer is cheap ------------------------

    def ranks(self) -> Sequence[int]:
        """The engine's data-parallel copies, which answer and fail each by itself."""
        return (0,)

    def steps(self, rank: int) -> float:  # noqa: ARG002
        """A number that changes with each step of the rank; one that stays when the engine does not tell.

        What the rank shares with others is alive too when it changes, unless there are several ranks.
        """
        return 0.0

    def progress(self) -> Hashable:
        """Something that changes whenever a request in flight got further, a piece of a long prompt included.

        None when the engine does not tell.
        """
        return None

    def tokens(self) -> int:
        """How many tokens of prompts and answers were computed; too small a number is allowed."""
        return 0

    def owed_tokens(self) -> int:
        """Tokens of prompts in flight that are not answered yet, as far as one step takes them together."""
        return 0

    # ---- control ------------------------------------------------------------------------------------------

    async def control(self, action: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """See the class. One at a time; it may take as long as timeouts.control_s."""
        return await self._control.obey(action, arguments)

    @property
    def is_commanded(self) -> bool:
        """The engine is at work on a command, so that a probe says nothing."""
        return self._control.is_at_work

    def weights(self) -> str:
        """Where they came from by command; empty: as configured."""
        return self._control.weights

    @property
    def is_resting(self) -> bool:
        """By command no request gets any further."""
        return self._control.is_resting

    def served_names(self) -> list[str]:
        """Names that a request may ask for."""
        return [self.framework_args.model.served_name, *self.engine_control().adapters()]

    async def listen_again(self) -> None:
        """The socket or its directory was deleted by somebody: serve on a new one at the same path."""
        if self.http is not None:
            for directory in (Path(self.framework_args.socket_path).parent, Path(self.framework_args.tmp_dir)):
                directory.mkdir(mode=0o700, exist_ok=True)
            await self.http.listen_again()

    def request_stop(self) -> None:
        """Stop: finish what is in flight, then leave. Asked again: leave at once. Signal handlers may call it."""
        if self._stop.is_set():
            self._hurry.set()
            return
        self._stop.set()
        self.news.stopping(self.in_flight())

    def fail(self, words: str) -> None:
        """The engine is lost, as ``words`` say; ``run()`` raises that. Only the first reason is kept."""
        self._lose(EngineError(words))

    def _lose(self, error: IchatError) -> None:
        if self._failure is None:
            self._failure = error
            self._failed.set()
            if self.backend_ready_event.is_set():
                self.news.suspect(str(error))  # nobody may be sent here while we clean up

    async def wait_for_server_ready(self) -> None:
        await self.backend_ready_event.wait()

    # ---- the lifecycle ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """See the class."""
        try:
            await self._unless_over(scan_while(self._start(), self.look_around))
            if not self._stop.is_set():
                await self._check_processes()
                self._control.open()
                self.backend_ready_event.set()
                await self._unless_over(Monitor(self, self.timeouts, self.news, self._warm_up_s).run())
        except IchatError as error:
            self._lose(error)  # an engine that is lost is not asked to leave, but killed
        finally:
            self._control.close()
            self.backend_ready_event.clear()
            await self.cleanup()
        if self._failure is not None:
            raise self._failure

    async def _start(self) -> None:
        try:
            self.news.phase("imports")
            args = self.framework_args
            await hub.choose(args.instance, args.model, args.accelerator, process_environment())
            await self.parse()
            self.news.phase("weights")
            await self.start_engine()
            self.news.phase("server")
            self.http = await self.start_server()
            self.news.phase("warm-up")
            began = time.monotonic()
            await self.warm_up()
            self._warm_up_s = time.monotonic() - began
        except Exception as error:
            # A process of the engine that died explains more than the error that its death caused here.
            raise self._failure or explain_start_failure(error) from error

    async def _check_processes(self) -> None:
        """A watch that watches nothing would be a promise that nobody keeps."""
        deadline = time.monotonic() + _WATCH_S
        self.look_around()
        while not self.processes.vital and time.monotonic() < deadline:
            await asyncio.sleep(_POLL_S)
            self.look_around()
        if not self.processes.vital:
            raise EngineError(f"no process of the engine matches {self.vital_processes.pattern!r}: nothing to watch")

    def stopped_processes(self) -> tuple[str, ...]:
        return self.processes.stopped()

    def activity(self, rank: int | None = None) -> Activity:
        """Of all processes of the engine, or of those of one rank, compilers included."""
        if rank is None or len(self.ranks()) == 1:
            return self.processes.activity()
        ours = re.compile(rf"_DP{rank}(?!\d)")  # both engines name them so
        return self.processes.activity(lambda title: bool(ours.search(title)) or not self.vital_processes.search(title))

    def is_compiling(self) -> bool:
        return self.processes.compiling()[0] > 0

    def look_around(self) -> None:
        """Find new processes of the engine, and tell what they hold."""
        self.processes.scan()
        self.news.residue(self.processes.shared_memory())
        self.news.compiling(*self.processes.compiling())

    async def _unless_over(self, work: Coroutine[Any, Any, None]) -> None:
        """Await ``work``, but give it up when a stop was asked for; raise when the engine has failed."""
        task = asyncio.create_task(work)
        ends = [asyncio.create_task(self._stop.wait()), asyncio.create_task(self._failed.wait())]
        try:
            await asyncio.wait([task, *ends], return_when=asyncio.FIRST_COMPLETED)
            if self._failure is not None and not self._stop.is_set():
                raise self._failure
            if task.done():
                await task
        finally:
            for each in (task, *ends):
                each.cancel()
            await asyncio.gather(task, *ends, return_exceptions=True)

    # ---- the way out --------------------------------------------------------------------------------------

    async def cleanup(self) -> None:
        """See the class. Also a stop: called during the start, it ends that. One run of it at a time."""
        self._stop.set()
        await asyncio.shield(asyncio.create_task(self._clean_alone(), name="cleanup"))

    async def _clean_alone(self) -> None:
        async with self._cleaning, contextlib.AsyncExitStack() as steps:
            # From the last to the first, each of them whatever became of the one before.
            steps.callback(_empty, Path(self.framework_args.tmp_dir))
            steps.callback(self._unlink_shared_memory)
            steps.push_async_callback(self._kill_processes)
            steps.push_async_callback(self._leave_engine)

    async def _leave_engine(self) -> None:
        http, self.http = self.http, None
        if http is not None:
            await self._leave_server(http)
            self.processes.disarm()
            if self._failure is None:
                self.look_around()  # what its processes hold is seen while they live
                await self._stop_within(self.timeouts.stop_s)

    async def _kill_processes(self) -> None:
        self.processes.scan()
        self.processes.shared_memory()  # seen now, while somebody still holds it
        killed = await self.processes.kill_all()
        log.debug("%s: cleaned up killed=%d", self.framework_args.instance, killed)

    def _unlink_shared_memory(self) -> None:
        for path in self.processes.shared_memory():
            Path(path).unlink(missing_ok=True)

    async def _stop_within(self, limit_s: float) -> None:
        try:
            async with asyncio.timeout(limit_s):
                await self.stop_engine()
        except Exception as error:  # noqa: BLE001  whatever the engine's own way out does, kill_all() follows
            log.warning("%s: the engine did not stop by itself (%r); killing it", self.framework_args.instance, error)

    async def _leave_server(self, http: HTTPServer) -> None:
        """Let requests finish while they can: until the deadline, a second request to stop, or a failure."""
        if not self._stop.is_set() or self._failure is not None:
            await http.abort()
            return
        await self._control.let_go()
        deadline = time.monotonic() + self.timeouts.drain_s
        drain = asyncio.create_task(http.drain(deadline, self.in_flight))
        ends = [asyncio.create_task(self._hurry.wait()), asyncio.create_task(self._failed.wait())]
        await asyncio.wait([drain, *ends], return_when=asyncio.FIRST_COMPLETED)
        if drain.done():
            self.was_cut_off = not await drain
        else:
            self.was_cut_off = self.in_flight() > 0
            await http.abort()
        for each in (drain, *ends):
            each.cancel()


def _empty(directory: Path) -> None:
    """Remove what is in the directory, not the directory: its maker removes that."""
    if not directory.is_dir():
        return
    for entry in directory.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
