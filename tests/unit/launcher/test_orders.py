"""Commands at the probe socket, and what their askers print."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ichat.errors import ConfigError, Problem
from ichat.launcher.board import Board
from ichat.launcher.controls import ControlError
from ichat.launcher.health import Probes
from ichat.launcher.orders import orders_of, render_plan, render_report
from ichat.launcher.probe import order

REPORT = {
    "generation": 2,
    "done": [{"subject": "models.a", "kind": "restart", "why": "context_length: 1 → 2"}],
    "failed": {},
    "needs_restart_of_ichat": [{"subject": "server.port", "kind": "container", "why": "port: 1 → 2"}],
    "cut_off": ["a/0"],
    "took_s": 1.5,
}


class ScriptedControls:
    """Answers as told, and after ``takes_s``."""

    def __init__(self) -> None:
        self.answer: dict[str, Any] | Exception = REPORT
        self.restarted: list[str] = []
        self.takes_s = 0.0

    async def plan(self) -> dict[str, Any]:
        return await self._answered()

    async def reload(self) -> dict[str, Any]:
        return await self._answered()

    async def restart(self, model: str) -> dict[str, Any]:
        self.restarted.append(model)
        return await self._answered()

    async def _answered(self) -> dict[str, Any]:
        await asyncio.sleep(self.takes_s)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
async def controls(tmp_path: Path) -> AsyncIterator[ScriptedControls]:
    board, controls = Board(), ScriptedControls()
    probes = Probes(board, board.status)
    probes.obey(orders_of(controls))  # type: ignore[arg-type]
    await probes.open(str(tmp_path / "ichat.sock"))
    yield controls
    probes.close()


async def ask(tmp_path: Path, method: str, target: str) -> dict[str, Any]:
    answer = await asyncio.to_thread(order, tmp_path / "ichat.sock", method, target)
    assert answer is not None
    return answer


async def test_a_command_is_answered_when_it_is_done(controls: ScriptedControls, tmp_path: Path) -> None:
    controls.takes_s = 2.5  # more than a probe may take
    assert await ask(tmp_path, "POST", "/reload") == REPORT


async def test_a_models_name_may_hold_anything(controls: ScriptedControls, tmp_path: Path) -> None:
    await ask(tmp_path, "POST", "/restart/Qwen%2FQwen2.5-7B")
    assert controls.restarted == ["Qwen/Qwen2.5-7B"]


async def test_a_wrong_configuration_is_told_line_by_line(controls: ScriptedControls, tmp_path: Path) -> None:
    controls.answer = ConfigError([Problem("E-A", "c.yaml:1:1", "one."), Problem("E-B", "c.yaml:2:1", "two.")])
    answer = await ask(tmp_path, "POST", "/reload")
    assert answer == {
        "exit_code": 78,
        "errors": ["ichat: error[E-A] c.yaml:1:1 one.", "ichat: error[E-B] c.yaml:2:1 two."],
    }


async def test_a_rollback_is_an_error_beside_what_was_done(controls: ScriptedControls, tmp_path: Path) -> None:
    controls.answer = REPORT | {"failed": {"models.b": "b/0: no weights. The old configuration serves."}}
    answer = await ask(tmp_path, "POST", "/reload")
    assert answer["exit_code"] == 69
    assert answer["errors"] == ["ichat: error[E-ROLLOUT] models.b: b/0: no weights. The old configuration serves."]
    assert answer["done"] == REPORT["done"]


async def test_an_unknown_model_is_a_mistake_of_the_command_line(controls: ScriptedControls, tmp_path: Path) -> None:
    controls.answer = ControlError(404, "model_not_found", "model 'x': there is no such model. There are: a.")
    answer = await ask(tmp_path, "POST", "/restart/x")
    assert answer["exit_code"] == 64
    assert "There are: a." in answer["errors"][0]


async def test_who_asks_and_leaves_has_it_done_all_the_same(controls: ScriptedControls, tmp_path: Path) -> None:
    controls.takes_s = 0.1
    _, writer = await asyncio.open_unix_connection(str(tmp_path / "ichat.sock"))
    writer.write(b"POST /restart/a HTTP/1.0\r\n\r\n")
    await writer.drain()
    writer.close()
    async with asyncio.timeout(5):
        while not controls.restarted:
            await asyncio.sleep(0.01)


async def test_commands_are_not_read_with_get_nor_plans_with_post(controls: ScriptedControls, tmp_path: Path) -> None:
    for method, target in (("GET", "/reload"), ("POST", "/plan"), ("GET", "/restart/a")):
        assert await asyncio.to_thread(order, tmp_path / "ichat.sock", method, target) is None
    assert controls.restarted == []


def test_a_plan_reads_like_one() -> None:
    plan = {
        "generation": 1,
        "changes": [
            {"subject": "models.a", "kind": "restart", "why": "context_length: 1 → 2", "rollout": "hold (no room)"},
            {"subject": "models.b", "kind": "remove", "why": "not in the configuration"},
        ],
        "unchanged": ["models.c"],
    }
    assert list(render_plan(plan)) == [
        "models.a: replace its instances",
        "    context_length: 1 → 2",
        "    rollout: hold (no room)",
        "models.b: remove",
        "    not in the configuration",
        "untouched: models.c",
    ]
    assert list(render_plan({"changes": [], "unchanged": ["models.c"]})) == ["Nothing would change."]


def test_a_report_tells_what_was_done_and_what_was_not() -> None:
    assert list(render_report(REPORT)) == [
        "models.a: restart done (context_length: 1 → 2)",
        "server.port: unchanged, needs a restart of ichat (port: 1 → 2)",
        "a/0: requests were cut off, since they took longer than its drain_s",
        "generation 2, 1.5 s",
    ]
