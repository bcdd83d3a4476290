"""The life and the ends of a worker process, with every backend."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from ichat.backends import load_backend
from ichat.backends.framework_args import FrameworkArgs
from ichat.config.schema import Timeouts
from ichat.ipc import messages
from tests.real_versions import EVERY, MOST, engine_of
from tests.worker_process import WorkerProcess, model, python_of

LEAN = {
    "fake": {"token_s": 0.02, "shm_bytes": 4096},
    "vllm": {"enforce-eager": True, "kv-cache-memory-bytes": 2**27},
    "sglang": {"max-total-tokens": 8192},
}


def lean(backend: str, **engine_args: Any) -> Any:
    return model(backend, engine_args=LEAN[backend] | engine_args, context_length=2048)


async def stream(session: aiohttp.ClientSession, tokens: int) -> tuple[int, bytes]:
    """A streamed completion of exactly so many tokens: (status, everything that came)."""
    body = {
        "model": "demo",
        "prompt": "Hello",
        "max_tokens": tokens,
        "stream": True,
        "ignore_eos": True,
        "temperature": 0,
    }
    async with session.post("http://worker/v1/completions", json=body) as answer:
        return answer.status, await answer.read()


def session(worker: WorkerProcess) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=aiohttp.UnixConnector(worker.socket_path))


def tree(worker: WorkerProcess) -> list[psutil.Process]:
    return psutil.Process(worker.process.pid).children(recursive=True)


async def assert_gone(processes: list[psutil.Process], within_s: float = 2.0) -> None:
    async with asyncio.timeout(within_s):
        while any(is_alive(process) for process in processes):
            await asyncio.sleep(0.02)


def is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


@pytest.mark.parametrize("version", ["fake", *EVERY])
async def test_sigterm_lets_streams_finish_and_leaves_nothing(version: str) -> None:
    backend = engine_of(version)
    async with WorkerProcess(lean(backend), python=python_of(version)) as worker:
        await worker.until(messages.WorkerReady)
        shm = set(worker.last(messages.WorkerResidue).shm)
        assert shm
        processes = tree(worker)
        async with session(worker) as client:
            tokens = {"fake": 60, "vllm": 1900, "sglang": 500}[backend]
            streams = [asyncio.create_task(stream(client, tokens)) for _ in range(4)]
            await asyncio.sleep(0.3)
            worker.signal(signal.SIGTERM)
            answers = await asyncio.gather(*streams)
        assert await worker.end() == 0
        for status, text in answers:
            assert status == 200
            assert text.endswith(b"data: [DONE]\n\n")
            assert b'data: {"error"' not in text  # the word alone is one that the demo model knows
            last = json.loads(text.split(b"data: ")[-2])
            assert last["choices"][0]["finish_reason"] == "length", "the stream came to its own end"
        await assert_gone(processes)
        assert os.listdir(worker.tmp_dir) == []
        assert not [path for path in shm if Path(path).exists()]
        assert worker.last(messages.WorkerStopping).in_flight == 4


@pytest.mark.parametrize("version", ["fake", *MOST])
async def test_a_second_sigterm_cuts_what_is_in_flight(version: str) -> None:
    slowly = {"token_s": 1} if version == "fake" else {}
    async with WorkerProcess(lean(engine_of(version), **slowly), python=python_of(version)) as worker:
        await worker.until(messages.WorkerReady)
        async with session(worker) as client:
            streams = [asyncio.create_task(stream(client, 1900)) for _ in range(32)]
            await asyncio.sleep(0.3)
            worker.signal(signal.SIGTERM)
            await asyncio.sleep(0.15)
            assert worker.process.returncode is None
            worker.signal(signal.SIGTERM)
            assert await worker.end(5) == 74
            ends = await asyncio.gather(*streams, return_exceptions=True)
            assert any(isinstance(end, aiohttp.ClientError) for end in ends)


@pytest.mark.parametrize("version", MOST)
async def test_the_engines_own_way_to_start_processes_works_too(version: str) -> None:
    """``start_method: spawn`` is the switch for whatever a fork may break."""
    spawned = lean(engine_of(version)).model_copy(update={"start_method": "spawn"})
    async with WorkerProcess(spawned, python=python_of(version)) as worker:
        await worker.until(messages.WorkerReady)
        processes = tree(worker)
        assert len([process for process in processes if "resource_tracker" not in " ".join(process.cmdline())]) >= 2
        worker.process.kill()  # spawned children die with their parent as well
        await worker.end()
        await assert_gone(processes)


async def test_the_drain_ends_at_its_deadline() -> None:
    async with WorkerProcess(lean("fake", token_s=5), timeouts=Timeouts(drain_s=0.5)) as worker:
        await worker.until(messages.WorkerReady)
        async with session(worker) as client:
            request = asyncio.create_task(stream(client, 900))
            await asyncio.sleep(0.2)
            worker.signal()
            assert await worker.end(3) == 74
            with pytest.raises(aiohttp.ClientError):
                await request


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
async def test_the_death_of_an_engine_process_ends_the_worker(number: int) -> None:
    async with WorkerProcess(lean("fake", processes=3)) as worker:
        await worker.until(messages.WorkerReady)
        processes = tree(worker)
        processes[1].send_signal(number)
        assert await worker.end(2) == 69
        failed = worker.last(messages.WorkerFailed)
        assert "FAKE::Engine/" in failed.words
        assert signal.Signals(number).name in failed.words
        await assert_gone(processes)


async def test_a_stopped_engine_process_is_suspected_and_then_lost() -> None:
    timeouts = Timeouts(probe_every_s=0.1, probe_suspect_s=0.5, probe_limit_s=1.5)
    async with WorkerProcess(lean("fake"), timeouts=timeouts) as worker:
        await worker.until(messages.WorkerReady)
        processes = tree(worker)
        processes[0].suspend()
        suspect = await worker.until(messages.WorkerSuspect, 3)
        assert "FAKE::Engine/0" in suspect.words
        assert await worker.end(5) == 69
        await assert_gone(processes)


async def test_a_process_that_runs_on_again_is_trusted_again() -> None:
    timeouts = Timeouts(probe_every_s=0.1, probe_suspect_s=0.5, probe_limit_s=60)
    async with WorkerProcess(lean("fake"), timeouts=timeouts) as worker:
        await worker.until(messages.WorkerReady)
        processes = tree(worker)
        processes[0].suspend()
        await worker.until(messages.WorkerSuspect, 3)
        processes[0].resume()
        async with asyncio.timeout(3):
            while not isinstance(worker.messages[-1][1], messages.WorkerReady):
                await asyncio.sleep(0.02)


@pytest.mark.parametrize("phase", ["arguments", "weights", "server", "warm-up"])
async def test_a_failed_start_ends_with_its_own_code_and_leaves_nothing(phase: str) -> None:
    async with WorkerProcess(lean("fake", fail_in=phase, fail_with=65)) as worker:
        assert await worker.end(10) == 65
        failed = worker.last(messages.WorkerFailed)
        assert (failed.exit_code, failed.code) == (65, "E-FAKE")
        assert worker.last(messages.WorkerReady) is None
        assert os.listdir(worker.tmp_dir) == []
        residue = worker.last(messages.WorkerResidue)
        assert not [path for path in (residue.shm if residue else []) if Path(path).exists()]


@pytest.mark.parametrize("phase", ["weights", "warm-up"])
async def test_a_stop_during_the_load_does_not_wait_for_it(phase: str) -> None:
    async with WorkerProcess(lean("fake", hang_in=phase)) as worker:
        async with asyncio.timeout(5):
            while phase not in [m.phase for _, m in worker.messages if isinstance(m, messages.WorkerPhase)]:
                await asyncio.sleep(0.02)
        processes = tree(worker)
        worker.signal()
        assert await worker.end(1) == 0
        await assert_gone(processes)


async def test_a_cleanup_during_the_start_ends_it(tmp_path: Path) -> None:
    """``cleanup()`` may be called at any time: nothing that the start still does may survive it."""
    (tmp_path / "tmp").mkdir()
    args = FrameworkArgs(
        instance="demo/0", model=lean("fake", hang_in="warm-up"), timeouts=Timeouts(), accelerator="cpu",
        socket_path=str(tmp_path / "http.sock"), tmp_dir=str(tmp_path / "tmp"), news=Silent(),
    )  # fmt: skip
    backend = load_backend("fake")(args, [], asyncio.Event())
    before = set(psutil.Process().children(recursive=True))
    running = asyncio.create_task(backend.run())
    async with asyncio.timeout(5):
        while backend.http is None:
            await asyncio.sleep(0.01)
    await backend.cleanup()
    await asyncio.wait_for(running, 5)
    left = [each for each in psutil.Process().children(recursive=True) if each not in before and is_alive(each)]
    assert [each for each in left if "resource_tracker" not in " ".join(each.cmdline())] == []
    assert not (tmp_path / "http.sock").exists()


class Silent:
    """News that nobody reads."""

    def phase(self, phase: str) -> None: ...
    def suspect(self, words: str) -> None: ...
    def recovered(self) -> None: ...
    def resting(self, words: str) -> None: ...
    def ready(self) -> None: ...
    def stopping(self, in_flight: int) -> None: ...
    def compiling(self, running: int, done: int) -> None: ...

    def residue(self, shm: list[str]) -> None: ...


async def test_a_death_is_told_before_anything_is_cleaned_up() -> None:
    async with WorkerProcess(lean("fake", processes=2)) as worker:
        await worker.until(messages.WorkerReady)
        tree(worker)[0].kill()
        await worker.end(5)
        kinds = [type(message) for _, message in worker.messages]
        assert kinds.index(messages.WorkerSuspect) < kinds.index(messages.WorkerFailed)


async def test_an_engine_that_does_not_stop_is_killed() -> None:
    async with WorkerProcess(lean("fake", stop_takes_s=600), timeouts=Timeouts(stop_s=0.3)) as worker:
        await worker.until(messages.WorkerReady)
        processes = tree(worker)
        worker.signal()
        assert await worker.end(3) == 0
        await assert_gone(processes)


async def test_a_worker_does_not_outlive_its_launcher() -> None:
    """The control channel's end before the first message, and the parent's death afterwards."""
    async with WorkerProcess(lean("fake")) as worker:
        worker.channel.close()
        await worker.end(5)


async def test_it_answers_pings() -> None:
    async with WorkerProcess(lean("fake")) as worker:
        await worker.until(messages.WorkerReady)
        worker.channel.send(messages.Ping(7))
        assert (await worker.until(messages.Pong, 2)).number == 7
