"""What each path of the admin port does, and what it answers. Nothing here knows of sockets or HTTP's bytes."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from ichat.errors import ConfigError, IchatError
from ichat.launcher.controls import CommandOutcome, ControlError, Controls

log = logging.getLogger(__name__)

_MODELS = "/admin/models/"
#: Of a model, obeyed by its engine; what they take and do is in docs/admin.md.
COMMANDS = (
    "sleep", "wake_up", "pause", "resume", "update_weights", "flush_cache", "start_profile", "stop_profile",
    "load_lora", "unload_lora", "log_level",
)  # fmt: skip

#: Commands to engines keep the limit themselves, and tell what became of the engine.
_THEIR_OWN_S = 5.0

Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


@dataclass(frozen=True)
class Answer:
    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


def failure(status: int, code: str, message: str, **headers: str) -> Answer:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return Answer(status, {"error": {"message": message, "type": kind, "code": code}}, headers)


class AdminPaths:
    """Answers requests that have shown the token."""

    def __init__(self, controls: Controls, limit_s: float) -> None:
        self._controls, self._limit_s = controls, limit_s
        self._running: set[asyncio.Task[dict[str, Any]]] = set()
        self._paths: dict[str, dict[str, Handler]] = {
            "/admin": {"GET": self._list},
            "/admin/status": {"GET": self._at_once(controls.status)},
            "/admin/config": {"GET": self._at_once(controls.describe_config)},
            "/admin/plan": {"GET": lambda body: self._plainly(body, controls.plan)},
            "/admin/reload": {"POST": lambda body: self._plainly(body, controls.reload)},
            "/admin/log_level": {"GET": self._at_once(controls.log_level), "POST": self._set_log_level},
        }

    async def answer(self, method: str, target: str, body: bytes) -> Answer:
        """``target`` as it stands in the request line."""
        path, question, _ = target.partition("?")
        methods = self._methods_of(path)
        if methods is None:
            return failure(404, "not_found", "There is no such path. GET /admin lists those there are.")
        if method not in methods:
            allowed = ", ".join(methods)
            return failure(405, "method_not_allowed", f"This path takes {allowed}.", Allow=allowed)
        if question:
            return failure(400, "invalid_request", "No query is taken; arguments are JSON in the body.")
        try:
            return self._as_answer(await self._within_limit(methods[method], _parse(body)))
        except ControlError as error:
            return failure(error.status, error.code, error.message)
        except IchatError as error:
            return failure(422 if isinstance(error, ConfigError) else 409, error.code, str(error))

    def close(self) -> None:
        for task in self._running:
            task.cancel()

    # ---- finding ------------------------------------------------------------------------------------------

    def _methods_of(self, path: str) -> dict[str, Handler] | None:
        if not path.startswith(_MODELS):
            return self._paths.get(path)
        # Names of models may have slashes.
        model, _, action = path.removeprefix(_MODELS).rpartition("/")
        model = unquote(model)
        known: dict[str, Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]] = {
            "restart": self._restart,
            "drain": self._drain,
            "undrain": self._undrain,
        }
        if not model or (action not in known and action not in COMMANDS):
            return None
        if action in known:
            return {"POST": lambda body: known[action](model, body)}
        return {"POST": lambda body: self._command(model, action, body)}

    @staticmethod
    def _as_answer(body: dict[str, Any]) -> Answer:
        return Answer(body.pop("http_status", 200), body)

    async def _within_limit(self, handler: Handler, body: dict[str, Any]) -> dict[str, Any]:
        """What takes longer goes on all the same: half a reload would be worse than none."""
        task = asyncio.create_task(_run(handler, body), name="admin request")
        self._running.add(task)
        task.add_done_callback(self._forget)
        await asyncio.wait({task}, timeout=self._limit_s + _THEIR_OWN_S)
        if task.done():
            return task.result()
        words = (
            f"Not done within {self._limit_s:.0f} s (timeouts.control_s); it goes on. GET /admin/status tells how far."
        )
        raise ControlError(504, "control_timeout", words)

    def _forget(self, task: asyncio.Task[dict[str, Any]]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.debug("admin: %r", error)  # told to whoever asked, unless they went away

    # ---- doing --------------------------------------------------------------------------------------------

    async def _list(self, body: dict[str, Any]) -> dict[str, Any]:
        _take(body)
        paths = [f"{method} {path}" for path, methods in self._paths.items() for method in methods]
        actions = ("restart", "drain", "undrain", *COMMANDS)
        return {"paths": [*paths, *(f"POST {_MODELS}{{model}}/{action}" for action in actions)]}

    @staticmethod
    def _at_once(ask: Callable[[], dict[str, Any]]) -> Handler:
        async def handler(body: dict[str, Any]) -> dict[str, Any]:
            _take(body)
            return ask()

        return handler

    @staticmethod
    async def _plainly(body: dict[str, Any], ask: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
        _take(body)
        return await ask()

    async def _set_log_level(self, body: dict[str, Any]) -> dict[str, Any]:
        _take(body, "level")
        level = body.get("level")
        if not isinstance(level, str):
            raise ControlError(400, "invalid_arguments", 'log_level: level is needed, as a string: {"level": "debug"}.')
        return await self._controls.set_log_level(level)

    async def _restart(self, model: str, body: dict[str, Any]) -> dict[str, Any]:
        _take(body)
        return await self._controls.restart(model)

    async def _drain(self, model: str, body: dict[str, Any]) -> dict[str, Any]:
        _take(body, "instance")
        return await self._controls.drain(model, _instance(body))

    async def _undrain(self, model: str, body: dict[str, Any]) -> dict[str, Any]:
        _take(body, "instance")
        return await self._controls.undrain(model, _instance(body))

    async def _command(self, model: str, action: str, body: dict[str, Any]) -> dict[str, Any]:
        instance = _instance(body)
        arguments = {key: value for key, value in body.items() if key != "instance"}
        return _merged(model, action, await self._controls.command(model, instance, action, arguments))


async def _run(handler: Handler, body: dict[str, Any]) -> dict[str, Any]:
    return await handler(body)


def _merged(model: str, action: str, outcomes: list[CommandOutcome]) -> dict[str, Any]:
    """200 only if every instance did it, else the worst of their statuses."""
    listed = [{"instance": one.instance, "status": one.status} | one.body for one in outcomes]
    merged: dict[str, Any] = {"model": model, "action": action, "instances": listed}
    failed = [one for one in outcomes if one.status != 200]
    if not failed:
        return merged
    worst = max(failed, key=lambda one: one.status)
    error = worst.body.get("error", {})
    words = f"{len(failed)} of {len(outcomes)} instances did not. {worst.instance}: {error.get('message', '')}"
    answer = failure(worst.status, str(error.get("code", "command_failed")), words)
    return merged | answer.body | {"http_status": worst.status}


def _instance(body: dict[str, Any]) -> str | None:
    instance = body.get("instance")
    if instance is None or isinstance(instance, str):
        return instance
    raise ControlError(
        400, "invalid_arguments", 'instance: must be a string, such as "qwen/0"; without it: all of them.'
    )


def _take(body: dict[str, Any], *names: str) -> None:
    if unknown := sorted(body.keys() - set(names)):
        taken = ", ".join(names) or "nothing"
        raise ControlError(400, "invalid_arguments", f"{unknown[0][:60]}: is unknown here. It takes: {taken}.")


def _parse(body: bytes) -> dict[str, Any]:
    if not body.strip():
        return {}
    try:
        parsed = json.loads(body, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        words = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise ControlError(400, "invalid_body", f"The body is not JSON: {words[:200]}.") from None
    if not isinstance(parsed, dict):
        raise ControlError(400, "invalid_body", 'The body must be a JSON object, such as {"instance": "qwen/0"}.')
    return parsed


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key is given twice")
    return table
