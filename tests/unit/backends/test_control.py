"""Commands to a running engine: which may follow which, and when the instance is ready (in virtual time)."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ichat.backends.control import Control
from ichat.backends.engine_control import (
    ACTIONS,
    CommandError,
    EngineControl,
    NotNowError,
    NotSupportedError,
    RefusedError,
    TookTooLongError,
    WrongArgumentsError,
    check_adapter,
    check_new_weights,
    check_trace_directory,
    read_arguments,
)
from ichat.backends.framework_args import FrameworkArgs
from ichat.config.schema import Model, Timeouts
from ichat.errors import EngineError
from tests.tiny_weights import nan_weights

pytestmark = pytest.mark.looptime
DEMO = Path(__file__).resolve().parents[3] / "models" / "demo"


class Engine(EngineControl):
    """Writes down what it is told, takes ``takes_s`` for it, and raises what it is given."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.takes_s: dict[str, float] = {}
        self.raises: dict[str, Exception] = {}
        self.loaded: list[str] = []

    async def _do(self, what: str, *details: Any) -> None:
        self.told.append(" ".join([what, *(str(one) for one in details)]))
        await asyncio.sleep(self.takes_s.get(what, 0))
        if what in self.raises:
            raise self.raises[what]

    def check_sleep(self, level: int) -> None:
        if "check_sleep" in self.raises:
            raise self.raises["check_sleep"]

    async def sleep(self, level: int) -> None:
        await self._do("sleep", level)

    async def wake_up(self, tags: Any, *, reload_from: str | None) -> None:
        await self._do("wake_up", *sorted(tags), reload_from)

    async def pause(self, mode: Any) -> None:
        await self._do("pause", mode)

    async def resume(self) -> None:
        await self._do("resume")

    async def update_weights(self, path: str) -> None:
        await self._do("update_weights")

    async def flush_cache(self) -> None:
        await self._do("flush_cache")

    async def start_profile(self, path: str | None, prefix: str | None) -> str:
        await self._do("start_profile", path, prefix)
        return path or "/configured"

    async def stop_profile(self) -> None:
        await self._do("stop_profile")

    async def load_lora(self, name: str, path: str) -> None:
        await self._do("load_lora", name)
        self.loaded.append(name)

    async def unload_lora(self, name: str) -> None:
        await self._do("unload_lora", name)

    async def set_log_level(self, level: str) -> list[str]:
        await self._do("log_level", level)
        return ["the engine"]


async def at_once(work: Callable[..., None], *arguments: Any) -> None:
    """Virtual time waits for no thread."""
    work(*arguments)


class Backend:
    """A ready backend with an engine that can be commanded; also its news."""

    def __init__(self, model_path: str = str(DEMO), **timeouts: float) -> None:
        model = Model(name="demo", model_path=model_path, backend="fake")
        self.framework_args = FrameworkArgs(
            "demo/0", model, Timeouts(**timeouts), "/run/http.sock", "/run/tmp", "cpu", news=self  # type: ignore[arg-type]
        )  # fmt: skip
        self.backend_ready_event = asyncio.Event()
        self.backend_ready_event.set()
        self.engine = Engine()
        self.requests = self.warm_ups = self.checks = 0
        self.heard: list[str] = []
        self.failure = ""
        self.warm_up_raises: Exception | None = None
        self.control = Control(self, aside=at_once)
        self.control.open()

    def engine_control(self) -> Engine:
        return self.engine

    async def warm_up(self) -> None:
        assert not self.backend_ready_event.is_set(), "ready before a token came out"
        await asyncio.sleep(0.5)
        self.warm_ups += 1
        if self.warm_up_raises is not None:
            raise self.warm_up_raises

    async def check_answer(self) -> None:
        self.checks += 1
        await self.warm_up()

    def in_flight(self) -> int:
        return self.requests

    def fail(self, words: str) -> None:
        self.failure = words

    def resting(self, words: str) -> None:
        self.heard.append(words)

    def ready(self) -> None:
        self.heard.append("ready")

    async def obey(self, action: str, **arguments: Any) -> dict[str, Any]:
        return await self.control.obey(action, arguments)


@pytest.fixture
async def backend() -> Backend:
    return Backend()


def new_weights(directory: Path, **changes: Any) -> str:
    """A directory that passes for the demo model's weights."""
    config = json.loads((DEMO / "config.json").read_text()) | changes
    (directory / "config.json").write_text(json.dumps(config))
    for file in DEMO.glob("*.safetensors"):
        (directory / file.name).symlink_to(file)
    return str(directory)


# ---- rest ---------------------------------------------------------------------------------------------------


async def test_a_pause_is_red_at_once_and_a_resume_green_only_after_a_real_request(backend: Backend) -> None:
    backend.engine.takes_s["pause"] = 5
    pausing = asyncio.create_task(backend.obey("pause"))
    await asyncio.sleep(1)
    assert backend.heard == ["paused"]
    assert not backend.backend_ready_event.is_set()
    assert await pausing == {"state": "paused", "in_flight": 0}
    assert await backend.obey("resume") == {"state": "ready"}
    assert backend.warm_ups == 1
    assert backend.heard == ["paused", "ready"]
    assert backend.backend_ready_event.is_set()
    assert backend.engine.told == ["pause wait", "resume"]


async def test_sleep_lets_requests_finish_first_and_waking_up_goes_on(backend: Backend) -> None:
    assert await backend.obey("sleep", level=1) == {"state": "asleep (level 1)"}
    assert await backend.obey("wake_up") == {"state": "ready"}
    assert backend.engine.told == ["pause wait", "sleep 1", "wake_up kv_cache weights None", "resume"]
    assert backend.heard == ["paused", "asleep (level 1)", "ready"]


async def test_after_level_2_the_weights_are_read_from_where_they_were_last(backend: Backend, tmp_path: Path) -> None:
    await backend.obey("sleep", level=2)
    await backend.obey("wake_up")
    assert backend.engine.told[-2] == f"wake_up kv_cache weights {DEMO}"
    path = new_weights(tmp_path)
    await backend.obey("update_weights", path=path)
    await backend.obey("sleep", level=2)
    await backend.obey("wake_up")
    assert backend.engine.told[-2] == f"wake_up kv_cache weights {path}"


async def test_it_can_be_woken_part_by_part_and_is_ready_with_the_last(backend: Backend, tmp_path: Path) -> None:
    await backend.obey("sleep", level=2)
    with pytest.raises(NotNowError, match="the weights come first"):
        await backend.obey("wake_up", tags=["kv_cache"])
    assert await backend.obey("wake_up", tags=["weights"]) == {"state": "asleep (level 2), without its kv_cache"}
    assert not backend.backend_ready_event.is_set()
    await backend.obey("update_weights", path=new_weights(tmp_path))
    assert not backend.backend_ready_event.is_set()
    assert await backend.obey("wake_up", tags=["kv_cache"]) == {"state": "ready"}
    assert backend.backend_ready_event.is_set()


async def test_commands_of_rest_are_harmless_when_repeated(backend: Backend) -> None:
    assert await backend.obey("resume") == await backend.obey("wake_up") == {"state": "ready"}
    for _ in range(2):
        await backend.obey("sleep", level=1)
    for _ in range(2):
        await backend.obey("wake_up")
    assert [told.split()[0] for told in backend.engine.told] == ["pause", "sleep", "wake_up", "resume"]


async def test_what_makes_no_sense_in_a_state_is_refused_with_the_way_out(backend: Backend) -> None:
    await backend.obey("sleep", level=1)
    for action, way_out in (("resume", "wake_up"), ("pause", "wake_up"), ("flush_cache", "wake_up")):
        with pytest.raises(NotNowError, match=way_out):
            await backend.obey(action)
    with pytest.raises(NotNowError, match=r"asleep .level 1. already"):
        await backend.obey("sleep", level=2)
    with pytest.raises(NotNowError, match=r"First wake_up with tags .weights."):
        await backend.obey("update_weights", path=str(DEMO))


async def test_what_a_pause_holds_back_is_not_slept_through(backend: Backend) -> None:
    await backend.obey("pause", mode="keep")
    backend.requests = 3
    for action, arguments in (("sleep", {}), ("update_weights", {"path": str(DEMO)}), ("pause", {"mode": "wait"})):
        with pytest.raises(NotNowError, match=r"[Rr]esume first"):
            await backend.obey(action, **arguments)
    await backend.obey("pause", mode="abort")


async def test_a_sleep_that_cannot_be_is_refused_before_anything_is_red(backend: Backend) -> None:
    backend.engine.raises["check_sleep"] = NotSupportedError("sleep: not on the CPU")
    with pytest.raises(NotSupportedError):
        await backend.obey("sleep")
    assert backend.heard == []
    assert backend.engine.told == []


async def test_a_sleep_that_waited_in_vain_leaves_it_ready() -> None:
    backend = Backend(control_s=60)
    backend.engine.takes_s["pause"] = 3600
    with pytest.raises(TookTooLongError, match=r"not done within 60 s .* the engine is ready"):
        await backend.obey("sleep")
    assert backend.heard == ["paused", "ready"]
    assert backend.failure == ""


async def test_a_pause_that_waits_too_long_stays_a_pause() -> None:
    backend = Backend(control_s=60)
    backend.engine.takes_s["pause"] = 3600
    with pytest.raises(TookTooLongError, match="the engine is paused"):
        await backend.obey("pause")
    assert not backend.backend_ready_event.is_set()
    await backend.obey("resume")
    assert backend.backend_ready_event.is_set()


async def test_a_stop_lets_go_what_a_pause_holds_back(backend: Backend) -> None:
    await backend.obey("pause", mode="keep")
    backend.control.close()
    await backend.control.let_go()
    await backend.control.let_go()
    assert backend.engine.told == ["pause keep", "resume"]
    assert not backend.backend_ready_event.is_set()


# ---- weights ------------------------------------------------------------------------------------------------


async def test_other_weights_are_taken_while_nothing_runs_and_no_prefix_survives_them(
    backend: Backend, tmp_path: Path
) -> None:
    path = new_weights(tmp_path)
    assert await backend.obey("update_weights", path=path) == {
        "state": "ready",
        "path": path,
        "survives_restart": False,
    }
    assert backend.engine.told == ["pause wait", "update_weights", "flush_cache", "resume"]
    assert backend.heard == ["paused", "ready"]
    assert backend.checks == 1
    await backend.obey("pause")
    await backend.obey("resume")
    assert backend.checks == 1, "what was looked at once is known"


async def test_other_weights_leave_a_pause_a_pause_and_are_looked_at_after_it(backend: Backend, tmp_path: Path) -> None:
    await backend.obey("pause")
    assert (await backend.obey("update_weights", path=new_weights(tmp_path)))["state"] == "paused"
    assert backend.engine.told == ["pause wait", "update_weights", "flush_cache"]
    assert not backend.backend_ready_event.is_set()
    assert backend.checks == 0
    await backend.obey("resume")
    assert backend.checks == 1


async def test_weights_whose_answers_are_no_numbers_cost_the_engine(backend: Backend, tmp_path: Path) -> None:
    backend.warm_up_raises = EngineError("the warm-up request to /v1/completions brought NaN", code="E-ENG-WARM-UP")
    with pytest.raises(CommandError, match=r"brought NaN\. The engine is started again as it was configured"):
        await backend.obey("update_weights", path=new_weights(tmp_path))
    assert not backend.backend_ready_event.is_set()
    assert "brought NaN" in backend.failure


async def test_weights_that_hold_nan_are_refused_before_the_engine_is_told(backend: Backend, tmp_path: Path) -> None:
    with pytest.raises(WrongArgumentsError, match=r"holds NaN \(not a number\) in model\.layers\.0\."):
        await backend.obey("update_weights", path=str(nan_weights(tmp_path / "nan")))
    assert backend.engine.told == []
    assert backend.backend_ready_event.is_set()


async def test_weights_that_the_engine_refuses_change_nothing(backend: Backend, tmp_path: Path) -> None:
    backend.engine.raises["update_weights"] = RefusedError("no loader for them")
    with pytest.raises(RefusedError):
        await backend.obey("update_weights", path=new_weights(tmp_path))
    assert backend.backend_ready_event.is_set()
    assert backend.failure == ""


async def test_an_engine_that_fails_over_new_weights_is_lost_not_served(backend: Backend, tmp_path: Path) -> None:
    backend.engine.raises["update_weights"] = RuntimeError("shape mismatch\nand more")
    with pytest.raises(
        CommandError, match=r"shape mismatch. The engine is started again as it was configured"
    ) as caught:
        await backend.obey("update_weights", path=new_weights(tmp_path))
    assert caught.value.status == 502
    assert "RuntimeError: shape mismatch" in backend.failure
    assert not backend.backend_ready_event.is_set()


async def test_weights_that_never_arrive_cost_the_engine_not_the_caller(tmp_path: Path) -> None:
    backend = Backend(control_s=60)
    backend.engine.takes_s["update_weights"] = 1e6
    with pytest.raises(TookTooLongError, match="the engine is lost"):
        await backend.obey("update_weights", path=new_weights(tmp_path))
    assert "did not end in time" in backend.failure
    assert not backend.backend_ready_event.is_set()


async def test_an_engine_that_answers_nothing_after_waking_up_is_lost(backend: Backend) -> None:
    await backend.obey("sleep")
    backend.warm_up_raises = EngineError("the warm-up request got 500")
    with pytest.raises(CommandError, match="the warm-up request got 500"):
        await backend.obey("wake_up")
    assert "the warm-up request got 500" in backend.failure
    assert not backend.backend_ready_event.is_set()


async def test_weights_for_a_model_of_the_hub_are_compared_with_those_in_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    backend = Backend("org/demo")
    (tmp_path / "new").mkdir()
    fits = new_weights(tmp_path / "new")
    with pytest.raises(NotSupportedError, match="the model that runs are not found"):
        await backend.obey("update_weights", path=fits)
    kept = tmp_path / "hub" / "models--org--demo"
    (kept / "snapshots" / "abc").mkdir(parents=True)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("abc")
    new_weights(kept / "snapshots" / "abc")
    (tmp_path / "other").mkdir()
    with pytest.raises(WrongArgumentsError, match="its hidden_size is 4096 instead of"):
        await backend.obey("update_weights", path=new_weights(tmp_path / "other", hidden_size=4096))
    assert backend.heard == []
    assert (await backend.obey("update_weights", path=fits))["path"] == fits


async def test_weights_that_cannot_fit_are_refused_before_anything_is_red(backend: Backend, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "cut").mkdir()
    cut = new_weights(tmp_path / "cut")
    (tmp_path / "cut" / "model.safetensors").unlink()
    (tmp_path / "cut" / "model.safetensors").write_bytes((DEMO / "model.safetensors").read_bytes()[:-1])
    (tmp_path / "lacks").mkdir()
    lacks = new_weights(tmp_path / "lacks")
    (tmp_path / "lacks" / "model.safetensors").unlink()
    header = b'{"a": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}'
    (tmp_path / "lacks" / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"xx")
    wrong = {
        lacks: r"is another model, the shape of a is \[1\] instead of None",
        "models/demo": "give the whole path",
        "/nowhere/at/all": "/nowhere/at/all: no such directory",
        str(tmp_path / "empty"): "no config.json",
        new_weights(tmp_path / "other", hidden_size=4096): "is another model, its hidden_size is 4096 instead of",
        cut: "expected .* bytes",
    }
    for path, words in wrong.items():
        with pytest.raises(WrongArgumentsError, match=words):
            await backend.obey("update_weights", path=path)
    assert backend.heard == []


# ---- all of them --------------------------------------------------------------------------------------------


async def test_one_command_at_a_time(backend: Backend) -> None:
    backend.engine.takes_s["flush_cache"] = 30
    flushing = asyncio.create_task(backend.obey("flush_cache"))
    await asyncio.sleep(1)
    assert backend.control.is_at_work
    with pytest.raises(NotNowError, match="flush_cache is still at work"):
        await backend.obey("pause")
    assert await flushing == {"state": "ready"}
    assert not backend.control.is_at_work


async def test_nothing_is_obeyed_before_the_engine_is_ready_or_while_it_leaves(backend: Backend) -> None:
    backend.control.close()
    with pytest.raises(NotNowError, match="demo/0 is not ready"):
        await backend.obey("flush_cache")


@pytest.mark.parametrize(
    ("action", "arguments", "words"),
    [
        ("dance", {}, "dance: no such command. There are: sleep, wake_up"),
        ("sleep", {"level": 3}, "sleep: level: Input should be 1 or 2. It takes: level."),
        ("sleep", {"depth": 1}, "sleep: depth is unknown. It takes: level."),
        ("flush_cache", {"all": True}, "flush_cache: all is unknown. It takes: nothing."),
        ("update_weights", {}, "update_weights: path is needed. It takes: path."),
        ("wake_up", {"tags": []}, "wake_up: tags: "),
        ("wake_up", {"tags": ["graphs"]}, "wake_up: tags.0: Input should be 'weights' or 'kv_cache'"),
        ("pause", {"mode": "retract"}, "pause: mode: Input should be 'wait', 'abort' or 'keep'"),
        ("load_lora", {"name": "../x", "path": "/"}, "load_lora: name: "),
        ("log_level", {"level": "loud"}, "log_level: level: "),
    ],
)
async def test_wrong_arguments_are_named_with_what_is_taken(
    backend: Backend, action: str, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(WrongArgumentsError) as caught:
        await backend.obey(action, **arguments)
    assert str(caught.value).startswith(words)
    assert backend.engine.told == []


async def test_every_action_has_a_way_to_be_obeyed(backend: Backend) -> None:
    assert all(callable(getattr(Control, f"_{action}")) for action in ACTIONS)
    assert read_arguments("sleep", {}) == ACTIONS["sleep"](level=1)


async def test_one_profile_at_a_time(backend: Backend, tmp_path: Path) -> None:
    with pytest.raises(NotNowError, match="Use start_profile first"):
        await backend.obey("stop_profile")
    assert await backend.obey("start_profile", path=str(tmp_path), prefix="a") == {
        "state": "ready",
        "path": str(tmp_path),
    }
    with pytest.raises(NotNowError, match="Use stop_profile first"):
        await backend.obey("start_profile")
    await backend.obey("stop_profile")
    assert await backend.obey("start_profile") == {"state": "ready", "path": "/configured"}


async def test_an_adapter_is_asked_for_by_the_models_name_and_its_own(backend: Backend, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(WrongArgumentsError, match=r"no weights .adapter_model.safetensors."):
        await backend.obey("load_lora", name="pirate", path=str(tmp_path))
    (tmp_path / "adapter_model.bin").write_bytes(b"anything")
    answer = await backend.obey("load_lora", name="pirate", path=str(tmp_path))
    assert answer == {"state": "ready", "model": "demo:pirate"}
    assert backend.heard == ["ready"], "the launcher hears of the new name"
    await backend.obey("unload_lora", name="pirate")
    assert backend.engine.told == ["load_lora pirate", "unload_lora pirate"]


async def test_new_names_do_not_make_a_resting_engine_ready(backend: Backend, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.bin").write_bytes(b"anything")
    await backend.obey("pause")
    await backend.obey("load_lora", name="pirate", path=str(tmp_path))
    assert backend.heard == ["paused"]


@pytest.mark.parametrize("check", [check_adapter, check_trace_directory, lambda path: check_new_weights(path, "/")])
def test_a_path_that_the_system_does_not_let_us_look_at_is_a_wrong_argument(
    check: Callable[[str], None],
) -> None:
    with pytest.raises(WrongArgumentsError, match="cannot be read"):
        check("/" + "a" * 300)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
@pytest.mark.parametrize("mode", [0o000, 0o400, 0o100])
def test_a_directory_of_somebody_else_is_a_wrong_argument(tmp_path: Path, mode: int) -> None:
    directory = tmp_path / "adapter"
    directory.mkdir()
    directory.chmod(mode)
    os.chown(directory, 12345, 12345)
    for parent in (tmp_path, *tmp_path.parents):
        if str(parent).startswith(tempfile.gettempdir() + "/"):
            parent.chmod(0o755)
    os.seteuid(12345)
    try:
        with pytest.raises(WrongArgumentsError, match=r"cannot be read \(Permission denied\)"):
            check_adapter(str(directory))
    finally:
        os.seteuid(0)
