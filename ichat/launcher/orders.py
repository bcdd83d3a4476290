"""What `ichat plan`, `reload` and `restart` ask of the launcher at its probe socket, and what they print."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from ichat.errors import ExitCode, IchatError, error_line
from ichat.launcher.controls import ControlError, Controls
from ichat.launcher.health import Orders

log = logging.getLogger(__name__)

_Answer = tuple[int, dict[str, Any]]


def orders_of(controls: Controls) -> Orders:
    """Every order with what carries it out. The answer has ``exit_code`` and ``errors`` where something went wrong."""

    async def plan(argument: str) -> _Answer:
        del argument
        return await _answer(controls.plan)

    async def reload(argument: str) -> _Answer:
        del argument
        return await _answer(controls.reload)

    async def restart(model: str) -> _Answer:
        return await _answer(lambda: controls.restart(model))

    return {(b"GET", b"/plan"): plan, (b"POST", b"/reload"): reload, (b"POST", b"/restart"): restart}


async def _answer(ask: Callable[[], Awaitable[dict[str, Any]]]) -> _Answer:
    try:
        body = await ask()
    except IchatError as error:
        return 422, {"exit_code": int(error.exit_code), "errors": error.line().splitlines()}
    except ControlError as error:
        return error.status, {
            "exit_code": int(ExitCode.USAGE),
            "errors": [error_line("E-USAGE", error.message)],
        }
    except Exception as error:
        log.exception("ichat: a command failed")
        line = error_line("E-INTERNAL", f"ichat: {error!r}. This is a bug in ichat: its log has the traceback.")
        return 500, {"exit_code": int(ExitCode.SOFTWARE), "errors": [line]}
    if failed := body.get("failed"):
        lines = [error_line("E-ROLLOUT", f"{subject}: {words}") for subject, words in failed.items()]
        return 200, body | {"exit_code": int(ExitCode.ENGINE), "errors": lines}
    return 200, body


def render_plan(plan: dict[str, Any]) -> Iterator[str]:
    """The lines of `ichat plan`."""
    if not plan["changes"]:
        yield "Nothing would change."
        return
    words = {
        "hot": "change while it serves",
        "scale": "add or retire instances",
        "restart": "replace its instances",
        "container": "needs a restart of ichat",
    }
    for change in plan["changes"]:
        yield f"{change['subject']}: {words.get(change['kind'], change['kind'])}"
        yield f"    {change['why']}"
        if "rollout" in change:
            yield f"    rollout: {change['rollout']}"
    if plan["unchanged"]:
        yield f"untouched: {', '.join(plan['unchanged'])}"


def render_report(report: dict[str, Any]) -> Iterator[str]:
    """The lines of `ichat reload` and `ichat restart`; what failed is told by the error lines."""
    for change in report["done"]:
        yield f"{change['subject']}: {change['kind']} done ({change['why']})"
    for change in report["needs_restart_of_ichat"]:
        yield f"{change['subject']}: unchanged, needs a restart of ichat ({change['why']})"
    for instance in report["cut_off"]:
        yield f"{instance}: requests were cut off, since they took longer than its drain_s"
    if not report["done"] and not report["failed"] and not report["needs_restart_of_ichat"]:
        yield "nothing has changed"
    else:
        yield f"generation {report['generation']}, {report['took_s']} s"
