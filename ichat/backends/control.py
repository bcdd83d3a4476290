"""Commands to a running engine: which of them may follow which, and when the instance is ready again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

from ichat.backends import engine_control, hub_cache
from ichat.backends.engine_control import (
    TAGS,
    CommandError,
    EngineControl,
    LoadLora,
    NotNowError,
    NotSupportedError,
    Pause,
    RefusedError,
    SetLogLevel,
    Sleep,
    StartProfile,
    Tag,
    TookTooLongError,
    UnloadLora,
    UpdateWeights,
    WakeUp,
    read_arguments,
)
from ichat.backends.framework_args import FrameworkArgs
from ichat.config.sources import process_environment
from ichat.errors import IchatError
from ichat.observe.logs import set_level

log = logging.getLogger(__name__)


class Commanded(Protocol):
    """What commands need of a backend."""

    framework_args: FrameworkArgs
    backend_ready_event: asyncio.Event

    def engine_control(self) -> EngineControl: ...
    async def warm_up(self) -> None: ...
    async def check_answer(self) -> None: ...
    def in_flight(self) -> int: ...
    def fail(self, words: str) -> None: ...


class Control:
    """Obeys one command at a time, each within ``timeouts.control_s``.

    While the engine is paused or asleep the instance is not ready; it becomes ready only by ``resume`` or
    ``wake_up``, and after a real request has been answered. A command that fails half way ends the engine, which is
    then started again by whoever watches over it: nobody is served by an engine in an unknown state.
    """

    def __init__(self, backend: Commanded, aside: Callable[..., Awaitable[None]] = asyncio.to_thread) -> None:
        """``aside`` calls a function that reads files while the loop serves."""
        self._backend, self._args, self._aside = backend, backend.framework_args, aside
        self._limit_s = self._args.timeouts.control_s
        self._weights_from = self._args.model.model_path
        self._is_open = self._is_lost = self._is_paused = self._is_profiling = False
        self._has_new_weights = False  # nobody has looked at an answer of theirs
        self._at_work = ""
        self._asleep: frozenset[Tag] = frozenset()
        self._level = 0

    def open(self) -> None:
        """Commands are obeyed from now on: the engine has answered its first request."""
        self._is_open = True

    def close(self) -> None:
        """No more: the engine is leaving, and not ready whatever a command brings."""
        self._is_open = False

    @property
    def is_at_work(self) -> bool:
        """An engine at work on a command answers no probe, and need not."""
        return bool(self._at_work)

    @property
    def weights(self) -> str:
        """Where they came from by `update_weights`; empty: they are those of the configuration."""
        return "" if self._weights_from == self._args.model.model_path else self._weights_from

    @property
    def is_resting(self) -> bool:
        return self._is_paused or bool(self._asleep)

    async def obey(self, action: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """What came of it. CommandError: why it did not."""
        order = read_arguments(action, arguments)
        if not self._is_open:
            raise NotNowError(f"{action}: {self._args.instance} is not ready. Wait until it is.")
        if self._at_work:
            raise NotNowError(f"{action}: {self._at_work} is still at work. Ask again when it is done.")
        work: Callable[..., Awaitable[dict[str, Any]]] = getattr(self, f"_{action}")
        self._at_work = action
        try:
            answer = await self._in_time(action, work(order))
        finally:
            self._at_work = ""
        log.info("%s: %s done, it is %s", self._args.instance, action, self._state())
        return {"state": self._state()} | answer

    async def _in_time(self, action: str, work: Awaitable[dict[str, Any]]) -> dict[str, Any]:
        was_resting = self.is_resting
        try:
            async with asyncio.timeout(self._limit_s) as limit:
                return await work
        except TimeoutError as error:
            if not limit.expired():
                raise
            if action != "pause" and not was_resting and self._is_paused and not self._is_lost:
                await self._end_pause()  # it only waited for requests to end
            words = f"{action}: not done within {self._limit_s:.0f} s (timeouts.control_s); the engine is"
            raise TookTooLongError(f"{words} {'lost' if self._is_lost else self._state()}.") from error

    async def let_go(self) -> None:
        """Before the engine leaves: what a pause holds back may finish."""
        if self._is_paused and not self._asleep and not self._is_lost:
            self._is_paused = False
            try:
                async with asyncio.timeout(self._args.timeouts.stop_s):
                    await self._backend.engine_control().resume()
            except Exception as error:  # noqa: BLE001  the drain's deadline ends what is held back
                log.warning("%s: requests held back by the pause are lost (%r)", self._args.instance, error)

    def _state(self) -> str:
        if self._asleep:
            partly = "" if self._asleep == TAGS else f", without its {' and '.join(sorted(self._asleep))}"
            return f"asleep (level {self._level}){partly}"
        return "paused" if self._is_paused else "ready"

    # ---- rest ---------------------------------------------------------------------------------------------

    async def _pause(self, order: Pause) -> dict[str, Any]:
        self._refuse_asleep("pause")
        if self._is_paused and order.mode == "wait" and self._backend.in_flight():
            raise NotNowError("pause: requests are held back and cannot finish. Resume first, or use mode abort.")
        self._begin_pause()
        await self._backend.engine_control().pause(order.mode)
        return {"in_flight": self._backend.in_flight()}

    async def _resume(self, order: object) -> dict[str, Any]:
        del order
        self._refuse_asleep("resume")
        if self._is_paused:
            await self._end_pause()
        return {}

    async def _sleep(self, order: Sleep) -> dict[str, Any]:
        if self._asleep:
            if order.level == self._level and self._asleep == TAGS:
                return {}
            raise NotNowError(f"sleep: it is {self._state()} already. Wake it up first.")
        engine = self._backend.engine_control()
        engine.check_sleep(order.level)
        await self._be_idle("sleep")
        try:
            await self._surely("sleep", engine.sleep(order.level))
        except NotSupportedError:
            await self._end_pause()
            raise
        self._asleep, self._level = TAGS, order.level
        self._rest(self._state())
        return {}

    async def _wake_up(self, order: WakeUp) -> dict[str, Any]:
        tags = self._asleep & frozenset(order.tags or TAGS)
        if self._level > 1 and self._asleep == TAGS and "weights" not in tags:
            raise NotNowError("wake_up: after level 2 the weights come first, or the engine would compute with none.")
        if tags:
            reload_from = self._weights_from if self._level > 1 and "weights" in tags else None
            work = self._backend.engine_control().wake_up(tags, reload_from=reload_from)
            await self._surely("wake_up", work)
            self._asleep -= tags
        if self._asleep:
            self._rest(self._state())
        elif tags:
            await self._end_pause()
        return {}

    def _begin_pause(self) -> None:
        self._is_paused = True
        self._rest("paused")

    async def _end_pause(self) -> None:
        await self._surely("resume", self._backend.engine_control().resume())
        self._is_paused = False
        await self._surely("warm-up", self._backend.warm_up())
        if self._has_new_weights:
            await self._surely("warm-up", self._backend.check_answer())
            self._has_new_weights = False
        self._awake()

    def _rest(self, words: str) -> None:
        self._backend.backend_ready_event.clear()
        self._args.news.resting(words)

    def _awake(self) -> None:
        if self._is_open:
            self._backend.backend_ready_event.set()
            self._args.news.ready()

    async def _be_idle(self, action: str) -> None:
        """Paused, and without a request."""
        if self._is_paused and self._backend.in_flight():
            raise NotNowError(f"{action}: requests are held back by the pause. Resume first, or pause with mode abort.")
        if not self._is_paused:
            self._begin_pause()
            await self._backend.engine_control().pause("wait")

    def _refuse_asleep(self, action: str) -> None:
        if self._asleep:
            raise NotNowError(f"{action}: it is {self._state()}. Use wake_up.")

    async def _surely(self, what: str, work: Awaitable[None]) -> None:
        """A step after which the engine is either as it should be, or lost."""
        try:
            await work
        except (NotSupportedError, RefusedError):
            raise
        except asyncio.CancelledError:
            self._lose(f"{what} did not end in time: the engine's state is unknown")
            raise
        except Exception as error:
            words = str(error) if isinstance(error, IchatError) else f"{type(error).__name__}: {_first_line(error)}"
            self._lose(f"{what} failed, so the engine's state is unknown: {words}")
            raise CommandError(f"{what}: {words}. The engine is started again as it was configured.") from error

    def _lose(self, words: str) -> None:
        self._is_lost = True
        self._backend.fail(words)

    # ---- weights, caches, adapters ------------------------------------------------------------------------

    def _files_that_run(self) -> Path | None:
        model = self._args.model
        if self._weights_from != model.model_path:
            return Path(self._weights_from)
        return hub_cache.files_of(model, process_environment())

    def _check_new_weights(self, path: str) -> None:
        engine_control.check_new_weights(path, self._files_that_run())

    async def _update_weights(self, order: UpdateWeights) -> dict[str, Any]:
        if "weights" in self._asleep:
            raise NotNowError(f"update_weights: it is {self._state()}. First wake_up with tags [weights].")
        await self._aside(self._check_new_weights, order.path)
        was_resting = self.is_resting
        await self._be_idle("update_weights")
        engine = self._backend.engine_control()
        try:
            await self._surely("update_weights", engine.update_weights(order.path))
        except (NotSupportedError, RefusedError):
            if not was_resting:
                await self._end_pause()
            raise
        self._weights_from, self._has_new_weights = order.path, True
        await self._surely("flush_cache", engine.flush_cache())
        if not was_resting:
            await self._end_pause()
        return {"path": order.path, "survives_restart": False}

    async def _flush_cache(self, order: object) -> dict[str, Any]:
        del order
        self._refuse_asleep("flush_cache")
        await self._backend.engine_control().flush_cache()
        return {}

    async def _load_lora(self, order: LoadLora) -> dict[str, Any]:
        self._refuse_asleep("load_lora")
        engine_control.check_adapter(order.path)
        await self._backend.engine_control().load_lora(order.name, order.path)
        if self._backend.backend_ready_event.is_set():
            self._args.news.ready()
        return {"model": f"{self._args.model.served_name}:{order.name}"}

    async def _unload_lora(self, order: UnloadLora) -> dict[str, Any]:
        self._refuse_asleep("unload_lora")
        await self._backend.engine_control().unload_lora(order.name)
        if self._backend.backend_ready_event.is_set():
            self._args.news.ready()
        return {}

    # ---- watching -----------------------------------------------------------------------------------------

    async def _start_profile(self, order: StartProfile) -> dict[str, Any]:
        if order.path is not None:
            engine_control.check_trace_directory(order.path)
        if self._is_profiling:
            raise NotNowError("start_profile: a profile is being taken. Use stop_profile first.")
        path = await self._backend.engine_control().start_profile(order.path, order.prefix)
        self._is_profiling = True
        return {"path": path}

    async def _stop_profile(self, order: object) -> dict[str, Any]:
        del order
        if not self._is_profiling:
            raise NotNowError("stop_profile: no profile is being taken. Use start_profile first.")
        self._is_profiling = False
        await self._backend.engine_control().stop_profile()
        return {}

    async def _log_level(self, order: SetLogLevel) -> dict[str, Any]:
        obeyed = await self._backend.engine_control().set_log_level(order.level)
        set_level(order.level)
        return {"level": order.level, "processes": ["ichat.worker", *obeyed]}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]
