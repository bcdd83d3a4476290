"""Commands to a worker, obeyed by every backend: what the CPU can do is done, what it cannot is refused with a reason."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from ichat.config.schema import Timeouts
from ichat.ipc import messages
from tests.real_versions import EVERY, PINNED, engine_of
from tests.tiny_weights import RANK, adapter, blank_weights, nan_weights
from tests.worker_process import DEMO, WorkerProcess, model, python_of

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]
LONG = {"fake": 60, "vllm": 800, "sglang": 300}
QUESTION = "What is ICHAT_PORT?"


def engine_args(backend: str, traces: Path) -> dict[str, Any]:
    return {
        "fake": {"token_s": 0.02},
        "vllm": {"enforce-eager": True, "kv-cache-memory-bytes": 2**27,
                 "profiler-config": {"profiler": "torch", "torch_profiler_dir": str(traces)}},
        "sglang": {"max-total-tokens": 8192},
    }[backend]  # fmt: skip


class Bench:
    """A ready worker, and what a client and the launcher see of it."""

    def __init__(self, backend: str, worker: WorkerProcess, traces: Path) -> None:
        self.backend, self.worker, self.traces = backend, worker, traces
        self._client = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(worker.socket_path), timeout=aiohttp.ClientTimeout(90)
        )

    async def close(self) -> None:
        await self._client.close()

    @property
    def is_ready(self) -> bool:
        """As the launcher knows it."""
        kinds = (messages.WorkerReady, messages.WorkerResting, messages.WorkerSuspect, messages.WorkerFailed)
        last = next(message for _, message in reversed(self.worker.messages) if isinstance(message, kinds))
        return isinstance(last, messages.WorkerReady)

    async def command(self, action: str, **arguments: Any) -> messages.ControlDone:
        return await self.worker.command(action, timeout_s=120, **arguments)

    async def obeyed(self, action: str, **arguments: Any) -> dict[str, Any]:
        done = await self.command(action, **arguments)
        assert done.status == 200, done
        return done.body

    async def refused(self, status: int, action: str, **arguments: Any) -> str:
        done = await self.command(action, **arguments)
        assert done.status == status, done
        return str(done.body["error"]["message"])

    async def ask(self, name: str = "demo", question: str = QUESTION) -> dict[str, Any]:
        body = {"model": name, "messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 40}
        async with self._client.post("http://worker/v1/chat/completions", json=body) as answer:
            parsed = json.loads(await answer.read())
            assert answer.status == 200, parsed
            return parsed  # type: ignore[no-any-return]

    async def text(self, name: str = "demo") -> str:
        return str((await self.ask(name))["choices"][0]["message"]["content"])

    async def stream(self) -> asyncio.Task[list[str]]:
        """The data of each event of a long answer, whose first has come."""
        begun = asyncio.Event()
        streaming = asyncio.create_task(self._stream(begun))
        await asyncio.wait_for(begun.wait(), 30)
        return streaming

    def waiting_stream(self) -> asyncio.Task[list[str]]:
        """The same of a paused engine, which nothing comes from."""
        return asyncio.create_task(self._stream(asyncio.Event()))

    async def _stream(self, begun: asyncio.Event) -> list[str]:
        body = {"model": "demo", "prompt": "Hello", "max_tokens": LONG[self.backend], "stream": True,
                "ignore_eos": True, "temperature": 0}  # fmt: skip
        async with self._client.post("http://worker/v1/completions", json=body) as answer:
            text = ""
            async for part in answer.content.iter_any():
                text += part.decode()
                begun.set()
        return [event.removeprefix("data: ") for event in text.split("\n\n") if event.startswith("data: ")]


def reason(events: list[str]) -> str:
    assert events[-1] == "[DONE]", events[-3:]
    reasons = [
        json.loads(event)["choices"][0]["finish_reason"]
        for event in events[:-1]
        if '"choices":[{' in event.replace(": ", ":")
    ]
    return next(str(one) for one in reversed(reasons) if one)


def said(events: list[str]) -> str:
    return "".join(json.loads(event)["choices"][0]["text"] for event in events[:-1] if '"text"' in event)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["fake", *EVERY])
async def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    backend, traces = engine_of(request.param), tmp_path_factory.mktemp("traces")
    lora = {} if backend != "vllm" else {"enable_lora": True, "max_lora_rank": 8, "max_loras": 2}
    settings = model(backend, engine_args=engine_args(backend, traces), context_length=2048, **lora)
    # So impatient that an engine which is probed while it rests would be killed before the test has ended.
    timeouts = Timeouts(probe_every_s=0.2, probe_suspect_s=2, probe_limit_s=4, control_s=60)
    async with WorkerProcess(settings, timeouts=timeouts, python=python_of(request.param)) as worker:
        await worker.until(messages.WorkerReady)
        one = Bench(backend, worker, traces)
        try:
            yield one
        finally:
            await one.close()
        worker.signal(signal.SIGTERM)
        assert await worker.end() == 0


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def _as_it_was(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """A test that fails half way leaves a ready engine to the next."""
    yield
    if "bench" in request.fixturenames:
        bench: Bench = request.getfixturevalue("bench")
        if not bench.is_ready:
            await bench.command("resume")


async def test_it_tells_how_long_a_request_may_be(bench: Bench) -> None:
    expected = None if bench.backend == "fake" else 2048
    assert bench.worker.last(messages.WorkerReady).max_model_len == expected


async def test_a_pause_holds_new_requests_and_resuming_serves_them(bench: Bench) -> None:
    assert (await bench.obeyed("pause"))["state"] == "paused"
    assert not bench.is_ready
    waiting = asyncio.create_task(bench.text())
    await asyncio.sleep(5)  # longer than an engine may leave a probe unanswered
    assert not waiting.done()
    assert not bench.is_ready
    await bench.obeyed("resume")
    assert bench.is_ready
    assert await waiting


async def test_requests_in_flight_finish_before_a_pause(bench: Bench) -> None:
    streaming = await bench.stream()
    pausing = asyncio.create_task(bench.obeyed("pause", mode="wait"))
    await asyncio.sleep(0.1)
    assert not bench.is_ready, "nothing new may be sent while it waits"
    assert reason(await streaming) == "length"
    await pausing
    await bench.obeyed("resume")


async def test_requests_in_flight_can_be_kept_through_a_pause(bench: Bench) -> None:
    undisturbed = said(await (await bench.stream()))
    streaming = await bench.stream()
    await bench.obeyed("pause", mode="keep")
    await asyncio.sleep(1)
    assert not streaming.done()
    await bench.obeyed("resume")
    events = await streaming
    assert reason(events) == "length"
    assert said(events) == undisturbed


async def test_requests_in_flight_can_be_aborted_and_have_an_end(bench: Bench) -> None:
    streaming = await bench.stream()
    await bench.obeyed("pause", mode="abort")
    assert reason(await asyncio.wait_for(streaming, 10)) == "abort"
    await bench.obeyed("resume")
    assert await bench.text()


async def test_a_request_that_has_not_begun_is_aborted_or_waits_for_the_resuming(bench: Bench) -> None:
    await bench.obeyed("pause", mode="keep")
    waiting = bench.waiting_stream()
    await asyncio.sleep(1)
    assert not waiting.done()
    await bench.obeyed("pause", mode="abort")
    await bench.obeyed("resume")
    events = await asyncio.wait_for(waiting, 60)
    # vLLM's own end of an aborted stream, which the front replaces; the others have not let the request begin.
    assert events == ["[DONE]"] if bench.backend == "vllm" else reason(events) == "length"
    assert await bench.text()


async def test_the_prefix_cache_is_flushed_and_no_request_is_lost_by_it(bench: Bench) -> None:
    await bench.text()
    await bench.obeyed("flush_cache")
    undisturbed = said(await (await bench.stream()))
    streaming = await bench.stream()
    await bench.obeyed("flush_cache")
    assert bench.is_ready
    events = await streaming
    assert reason(events) == "length"
    # What is computed again is computed in one go: in bfloat16 the same only as long as the model knows what it says.
    assert said(events)[:200] == undisturbed[:200]


async def test_weights_are_replaced_from_disk_and_back(bench: Bench, tmp_path: Path) -> None:
    before = await bench.ask()
    await bench.obeyed("update_weights", path=str(blank_weights(tmp_path / "blank")))
    assert bench.is_ready
    between = await bench.ask()
    await bench.obeyed("update_weights", path=str(DEMO))
    after = await bench.ask()
    if bench.backend == "fake":
        assert between["system_fingerprint"].endswith("blank")
        assert after["system_fingerprint"] == str(DEMO)
        return
    texts = [one["choices"][0]["message"]["content"] for one in (before, between, after)]
    assert texts[0] == texts[2] != texts[1]
    assert after["model"] == "demo", "its name stays"
    async with bench._client.get("http://worker/v1/models") as answer:
        assert (await answer.json())["data"][0]["id"] == "demo"


async def test_weights_without_numbers_are_refused_and_it_serves_on(bench: Bench, tmp_path: Path) -> None:
    before = await bench.text()
    path = nan_weights(tmp_path / "nan")
    assert "holds NaN (not a number) in model.layers.0." in await bench.refused(400, "update_weights", path=str(path))
    assert bench.is_ready
    assert await bench.text() == before


async def test_weights_that_do_not_fit_are_refused_and_it_serves_on(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps(json.loads((DEMO / "config.json").read_text()) | {"hidden_size": 8})
    )
    (tmp_path / "model.safetensors").symlink_to(DEMO / "model.safetensors")
    assert "its hidden_size is 8 instead of 256" in await bench.refused(400, "update_weights", path=str(tmp_path))
    assert "no such directory" in await bench.refused(400, "update_weights", path="/nowhere")
    assert bench.is_ready
    assert await bench.text()


async def test_an_adapter_is_loaded_served_under_its_name_and_unloaded(bench: Bench, tmp_path: Path) -> None:
    plain = await bench.text()
    path = str(adapter(tmp_path / "noise"))
    if bench.backend == "sglang":
        assert "on the CPU SGLang cannot" in await bench.refused(501, "load_lora", name="noise", path=path)
        assert "on the CPU SGLang cannot" in await bench.refused(501, "unload_lora", name="noise")
        return
    assert (await bench.obeyed("load_lora", name="noise", path=path))["model"] == "demo:noise"
    assert bench.worker.last(messages.WorkerReady).served_names == ["demo", "demo:noise"]
    if bench.backend != "fake":
        assert await bench.text("demo:noise") != plain
    assert await bench.text() == plain
    assert "noise" in await bench.refused(422, "load_lora", name="noise", path=path)
    await bench.obeyed("unload_lora", name="noise")
    assert bench.worker.last(messages.WorkerReady).served_names == ["demo"]
    assert "noise" in await bench.refused(422, "unload_lora", name="noise")
    await bench.obeyed("load_lora", name="noise", path=path)
    await bench.obeyed("unload_lora", name="noise")
    assert await bench.text() == plain


async def test_an_adapter_that_is_none_is_refused_and_it_serves_on(bench: Bench, tmp_path: Path) -> None:
    assert "no adapter_config.json" in await bench.refused(400, "load_lora", name="x", path=str(tmp_path))
    if bench.backend == "vllm":
        broken = adapter(tmp_path / "broken")
        config = json.loads((broken / "adapter_config.json").read_text()) | {"r": 64 * RANK}
        (broken / "adapter_config.json").write_text(json.dumps(config))
        assert await bench.refused(422, "load_lora", name="x", path=str(broken))
    assert bench.worker.last(messages.WorkerReady).served_names == ["demo"]
    assert await bench.text()


async def test_a_profile_is_written_where_it_was_told(bench: Bench) -> None:
    assert (await bench.obeyed("start_profile", path=str(bench.traces)))["path"] == str(bench.traces)
    await bench.refused(409, "start_profile", path=str(bench.traces))
    await bench.text()
    await bench.obeyed("stop_profile")
    if bench.backend != "fake":
        assert any(file.stat().st_size for file in bench.traces.rglob("*") if file.is_file())
    assert await bench.text()


async def test_the_log_level_is_changed(bench: Bench) -> None:
    assert (await bench.obeyed("log_level", level="debug"))["processes"][0] == "ichat.worker"
    await bench.obeyed("log_level", level="info")
    assert await bench.text()


async def test_sleep_says_why_the_cpu_cannot_and_it_serves_on(bench: Bench) -> None:
    if bench.backend == "fake":
        await bench.obeyed("sleep", level=2)
        assert not bench.is_ready
        await asyncio.sleep(5)
        await bench.obeyed("wake_up")
    else:
        for level in (1, 2):
            assert "on the CPU" in await bench.refused(501, "sleep", level=level)
    assert bench.is_ready
    assert await bench.text()


async def test_a_second_command_waits_for_nobody(bench: Bench) -> None:
    streaming = await bench.stream()
    pausing = asyncio.create_task(bench.obeyed("pause"))
    await asyncio.sleep(0.1)
    assert "pause is still at work" in await bench.refused(409, "flush_cache")
    await streaming
    await pausing
    await bench.obeyed("resume")


async def test_wrong_arguments_touch_nothing(bench: Bench) -> None:
    assert "It takes: mode." in await bench.refused(400, "pause", mood="wait")
    assert "There are: sleep" in await bench.refused(400, "dance")
    assert bench.is_ready


@pytest.mark.parametrize("backend", PINNED)
async def test_what_it_was_not_started_for_is_refused_with_the_setting_that_allows_it(
    backend: str, tmp_path: Path
) -> None:
    lean: dict[str, Any] = {
        "vllm": {"enforce-eager": True, "kv-cache-memory-bytes": 2**27},
        "sglang": {"max-total-tokens": 8192},
    }
    async with WorkerProcess(model(backend, engine_args=lean[backend])) as worker:
        await worker.until(messages.WorkerReady)
        done = await worker.command("load_lora", name="noise", path=str(adapter(tmp_path / "noise")))
        assert (done.status, done.body["error"]["code"]) == (501, "not_supported")
        assert {"vllm": "enable_lora: true", "sglang": "on vLLM"}[backend] in done.body["error"]["message"]
        done = await worker.command("start_profile")
        expected = {"vllm": (501, "profiler-config"), "sglang": (400, "path is needed")}[backend]
        assert done.status == expected[0]
        assert expected[1] in done.body["error"]["message"]


@pytest.mark.engine
async def test_sglang_with_adapters_on_the_cpu_is_refused_before_it_would_die_of_them() -> None:
    async with WorkerProcess(model("sglang", enable_lora=True, max_lora_rank=8)) as worker:
        assert await worker.end(120) == 78
        assert "on the CPU it cannot serve adapters" in worker.last(messages.WorkerFailed).words


async def test_a_stop_lets_what_a_pause_keeps_finish() -> None:
    async with WorkerProcess(model("fake", engine_args={"token_s": 0.02})) as worker:
        await worker.until(messages.WorkerReady)
        bench = Bench("fake", worker, Path())
        streaming = await bench.stream()
        assert (await worker.command("pause", mode="keep")).status == 200
        worker.signal(signal.SIGTERM)
        assert reason(await streaming) == "length"
        assert await worker.end() == 0
        await bench.close()


async def test_an_engine_that_fails_over_new_weights_ends_the_worker_with_the_reason() -> None:
    async with WorkerProcess(model("fake", engine_args={"fails_at": ["update_weights"]})) as worker:
        await worker.until(messages.WorkerReady)
        done = await worker.command("update_weights", path=str(DEMO))
        assert done.status == 502
        assert await worker.end() == 69
        assert "update_weights failed, so the engine's state is unknown" in worker.last(messages.WorkerFailed).words


async def test_a_script_can_refuse_any_command() -> None:
    async with WorkerProcess(model("fake", engine_args={"not_supported": ["flush_cache", "sleep"]})) as worker:
        await worker.until(messages.WorkerReady)
        for action in ("flush_cache", "sleep"):
            assert (await worker.command(action)).status == 501


async def test_nothing_is_commanded_before_it_is_ready() -> None:
    async with WorkerProcess(model("fake", engine_args={"load_s": 30})) as worker:
        await worker.until(messages.WorkerPhase)
        done = await worker.command("pause")
        assert (done.status, done.body["error"]["code"]) == (409, "not_now")
        assert "not ready" in done.body["error"]["message"]


async def test_pings_are_answered_while_a_command_is_at_work() -> None:
    async with WorkerProcess(model("fake", engine_args={"command_s": 5})) as worker:
        await worker.until(messages.WorkerReady)
        flushing = asyncio.create_task(worker.command("flush_cache"))
        worker.channel.send(messages.Ping(7))
        assert (await worker.until(messages.Pong, timeout_s=2)).number == 7
        assert not flushing.done()
        assert (await flushing).status == 200
