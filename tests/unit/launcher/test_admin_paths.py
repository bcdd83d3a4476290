"""What each path of the admin port does and answers, once the token was shown (in virtual time)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from ichat.backends.engine_control import ACTIONS
from ichat.errors import ConfigError, Problem, TemporaryError
from ichat.launcher.admin_paths import COMMANDS, AdminPaths, Answer
from ichat.launcher.controls import CommandOutcome, ControlError
from tests.unit.launcher.fake_controls import FakeControls

pytestmark = pytest.mark.looptime


class Bench:
    def __init__(self) -> None:
        self.controls = FakeControls()
        self.paths = AdminPaths(self.controls, limit_s=600)

    async def ask(self, method: str, path: str, body: Any = None) -> Answer:
        return await self.paths.answer(method, path, b"" if body is None else json.dumps(body).encode())

    async def ok(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        answer = await self.ask(method, path, body)
        assert answer.status == 200, answer
        return answer.body

    async def refused(self, status: int, method: str, path: str, body: Any = None) -> dict[str, Any]:
        answer = await self.ask(method, path, body)
        assert answer.status == status, answer
        error: dict[str, Any] = answer.body["error"]
        assert set(error) == {"message", "type", "code"}
        assert error["type"] == ("server_error" if status >= 500 else "invalid_request_error")
        return error


@pytest.fixture
async def bench() -> Bench:
    return Bench()


async def test_every_path_is_listed_and_every_listed_path_answers(bench: Bench) -> None:
    listed = (await bench.ok("GET", "/admin"))["paths"]
    assert len(listed) == len(set(listed)) == 7 + 3 + len(COMMANDS)
    for line in listed:
        method, path = line.replace("{model}", "qwen").split()
        body = {"level": "debug"} if path == "/admin/log_level" and method == "POST" else None
        await bench.ok(method, path, body)


async def test_the_commands_are_those_that_an_engine_can_be_given() -> None:
    assert set(COMMANDS) == set(ACTIONS)


async def test_status_and_configuration_are_shown_as_they_are(bench: Bench) -> None:
    assert await bench.ok("GET", "/admin/status") == bench.controls.status()
    assert await bench.ok("GET", "/admin/config") == bench.controls.describe_config()
    assert await bench.ok("GET", "/admin/plan") == {"did": "plan"}
    assert await bench.ok("POST", "/admin/reload") == {"did": "reload"}


async def test_a_model_is_named_in_the_path_slashes_and_all(bench: Bench) -> None:
    for path in ("Qwen/Qwen2.5:7b", "Qwen%2FQwen2.5%3A7b"):
        await bench.ok("POST", f"/admin/models/{path}/restart")
    assert bench.controls.told == [("restart", "Qwen/Qwen2.5:7b")] * 2


async def test_drain_takes_all_instances_or_the_one_that_is_named(bench: Bench) -> None:
    await bench.ok("POST", "/admin/models/qwen/drain")
    await bench.ok("POST", "/admin/models/qwen/undrain", {"instance": "qwen/1"})
    assert bench.controls.told == [("drain", "qwen", "qwen/0", "qwen/1"), ("undrain", "qwen", "qwen/1")]


async def test_a_command_is_passed_on_with_its_arguments_and_each_outcome_listed(bench: Bench) -> None:
    body = await bench.ok("POST", "/admin/models/qwen/sleep", {"level": 2, "instance": "qwen/0"})
    assert bench.controls.told == [("command", "qwen", ["qwen/0"], "sleep", {"level": 2})]
    assert body == {
        "model": "qwen",
        "action": "sleep",
        "instances": [{"instance": "qwen/0", "status": 200, "state": "ready"}],
    }


async def test_the_worst_outcome_is_the_answers(bench: Bench) -> None:
    refusal = {
        "error": {"message": "sleep: on the CPU there is none.", "type": "server_error", "code": "not_supported"}
    }
    conflict = {"error": {"message": "sleep: pause is at work.", "type": "invalid_request_error", "code": "not_now"}}
    bench.controls.outcomes = [
        CommandOutcome("qwen/0", 200, {"state": "asleep"}),
        CommandOutcome("qwen/1", 501, refusal),
        CommandOutcome("qwen/2", 409, conflict),
    ]
    answer = await bench.ask("POST", "/admin/models/qwen/sleep")
    assert answer.status == 501
    assert answer.body["error"]["code"] == "not_supported"
    assert answer.body["error"]["message"] == "2 of 3 instances did not. qwen/1: sleep: on the CPU there is none."
    assert [one["status"] for one in answer.body["instances"]] == [200, 501, 409]
    assert answer.body["instances"][2]["error"]["code"] == "not_now"


@pytest.mark.parametrize("path", ["/", "/admin/", "/admin/models", "/admin/models/", "/admin/models/qwen", "/Admin",
                                  "/admin/models/qwen/dance", "/admin/models//sleep", "/admin//status", "//admin",
                                  "/admin/models/qwen/sleep/", "/admin/%73tatus", "/admin/models/qwen/%73leep",
                                  "/v1/models", "/admin/../admin/status", "*", "http://x/admin"])  # fmt: skip
async def test_only_exact_paths_are_known(bench: Bench, path: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        assert (await bench.refused(404, method, path))["code"] == "not_found"
    assert bench.controls.told == []


async def test_another_method_is_told_which_one_is_right(bench: Bench) -> None:
    for method, path, allowed in (("GET", "/admin/reload", "POST"), ("HEAD", "/admin/status", "GET"),
                                  ("PUT", "/admin/log_level", "GET, POST"), ("GET", "/admin/models/qwen/sleep", "POST")):  # fmt: skip
        answer = await bench.ask(method, path)
        assert (answer.status, answer.headers["Allow"]) == (405, allowed)
    assert bench.controls.told == []


async def test_a_query_is_refused_not_overlooked(bench: Bench) -> None:
    assert "arguments are JSON" in (await bench.refused(400, "POST", "/admin/models/qwen/sleep?level=2"))["message"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "The body is not JSON"),
        (b"\xff\xfe", "The body is not JSON"),
        (b"[1]", "must be a JSON object"),
        (b'"sleep"', "must be a JSON object"),
        (b"[" * 30000, "The body is not JSON: nested too deep"),
        (b'{"level": 1, "level": 2}', "a key is given twice"),
        (b'{"instance": 0}', "instance: must be a string"),
    ],
)
async def test_a_body_that_is_no_object_is_refused(bench: Bench, body: bytes, words: str) -> None:
    answer = await bench.paths.answer("POST", "/admin/models/qwen/sleep", body)
    assert answer.status == 400
    assert words in answer.body["error"]["message"]
    assert bench.controls.told == []


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/admin"), ("GET", "/admin/status"), ("POST", "/admin/reload"), ("GET", "/admin/plan"),
     ("POST", "/admin/models/qwen/restart"), ("POST", "/admin/models/qwen/drain"), ("POST", "/admin/log_level")],
)  # fmt: skip
async def test_an_argument_that_is_not_taken_is_named(bench: Bench, method: str, path: str) -> None:
    assert "force: is unknown here" in (await bench.refused(400, method, path, {"force": True}))["message"]
    assert bench.controls.told == []


async def test_unknown_names_are_told_with_those_there_are(bench: Bench) -> None:
    for action in ("restart", "drain", "undrain", "sleep"):
        assert "There are: qwen." in (await bench.refused(404, "POST", f"/admin/models/lama/{action}"))["message"]
    error = await bench.refused(404, "POST", "/admin/models/qwen/pause", {"instance": "qwen/7"})
    assert "There are: qwen/0, qwen/1." in error["message"]


async def test_refusals_keep_their_words(bench: Bench) -> None:
    problem = Problem("E-CFG-TYPE", "configs.yaml:3:1 server.port", '"x" is no port.')
    for error, status in (
        (ConfigError([problem]), 422),
        (TemporaryError("reload: another one runs.", code="E-RELOAD"), 409),
        (ControlError(503, "leaving", "ichat is leaving."), 503),
    ):
        bench.controls.raises["reload"] = error
        assert (await bench.refused(status, "POST", "/admin/reload"))["message"] == str(error)


async def test_what_takes_too_long_is_told_and_goes_on(bench: Bench, looptime: float) -> None:
    bench.controls.takes_s["reload"] = 3600
    error = await bench.refused(504, "POST", "/admin/reload")
    assert looptime == 605
    assert "it goes on" in error["message"]
    assert bench.controls.finished == []
    await asyncio.sleep(3600)
    assert bench.controls.finished == ["reload"]


async def test_the_log_level_is_read_and_set(bench: Bench) -> None:
    assert await bench.ok("POST", "/admin/log_level", {"level": "debug"}) == {"level": "debug"}
    assert await bench.ok("GET", "/admin/log_level") == {"level": "debug"}
    assert "as a string" in (await bench.refused(400, "POST", "/admin/log_level", {"level": 10}))["message"]
