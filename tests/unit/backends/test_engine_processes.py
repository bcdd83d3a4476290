"""Real processes, watched and killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ichat.backends import start_method
from ichat.backends.engine_processes import EngineProcesses
from ichat.system.activity import Watch


@pytest.fixture
def deaths() -> list[str]:
    return []


@pytest.fixture
def processes(deaths: list[str]) -> EngineProcesses:
    return EngineProcesses(re.compile("^VITAL"), deaths.append, settle_s=0)


@pytest.fixture
def start() -> Iterator[object]:
    """Starts processes that sleep under a title."""
    children: list[subprocess.Popen[bytes]] = []

    def start(title: str) -> subprocess.Popen[bytes]:
        children.append(subprocess.Popen([title, "1000"], executable="/bin/sleep"))
        return children[-1]

    yield start
    for child in children:
        child.kill()
        child.wait()


async def until(condition: object, limit_s: float = 2) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
async def test_a_death_is_told_at_once_and_in_words(processes, deaths, start, number) -> None:
    child = start("VITAL::one")
    processes.scan()
    child.send_signal(number)
    await until(lambda: deaths)
    words = rf"VITAL::one 1000 \(pid {child.pid}(, \d\.\d GiB)?\) was killed by {number.name}"
    assert re.fullmatch(words, deaths[0])
    assert child.wait() == -number, "its status is still there for whoever waits for it"


async def test_a_signal_without_a_name_is_a_death_too(processes, deaths, start) -> None:
    child = start("VITAL::one")
    processes.scan()
    child.send_signal(40)
    await until(lambda: deaths)
    assert "was killed by signal 40" in deaths[0]


async def test_a_child_that_only_passes_through_its_parents_title_is_not_the_engine(deaths, start) -> None:
    """Between fork and exec a compiler looks like the engine process that started it."""
    processes = EngineProcesses(re.compile("^VITAL"), deaths.append, settle_s=0.2)
    child = start("VITAL::just forked")
    processes.scan()
    child.kill()
    child.wait()
    engine = start("VITAL::engine")
    processes.scan()
    await asyncio.sleep(0.25)
    assert deaths == []
    processes.scan()
    (living,) = processes.vital
    assert living.startswith(f"VITAL::engine 1000 (pid {engine.pid}")
    engine.kill()
    await until(lambda: deaths)


async def test_an_exit_with_code_0_is_a_death_too(processes, deaths) -> None:
    child = subprocess.Popen(["VITAL::short", "0.05"], executable="/bin/sleep")
    processes.scan()
    await until(lambda: deaths)
    assert "exited with code 0" in deaths[0]
    child.wait()


async def test_others_may_come_and_go(processes, deaths, start) -> None:
    child = start("compiler")
    processes.scan()
    child.kill()
    await asyncio.sleep(0.1)
    processes.scan()
    assert deaths == []
    assert processes.vital == []
    child.wait()


async def test_a_stopped_process_is_seen(processes, start) -> None:
    child = start("VITAL::one")
    start("VITAL::two")
    processes.scan()
    assert processes.stopped() == ()
    child.send_signal(signal.SIGSTOP)
    await until(processes.stopped)
    assert len(processes.stopped()) == 1


async def test_a_stopped_process_is_killed_too(processes, deaths, start) -> None:
    children = [start("VITAL::one"), start("other")]
    children[0].send_signal(signal.SIGSTOP)
    processes.scan()
    assert await processes.kill_all() == 2
    assert deaths == [], "what we kill ourselves is no news"


def orphan(*argv: str) -> int:
    """The pid of a process that runs ``argv`` and whose parent has ended: it has come to us."""
    start_method.adopt_orphans()
    code = f"import subprocess as s; print(s.Popen({list(argv)!r}, stdout=s.DEVNULL, stderr=s.DEVNULL).pid)"
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)


async def test_an_orphan_is_found_killed_and_reaped(processes) -> None:
    pid = orphan("/bin/sleep", "1000")
    processes.scan()
    await processes.kill_all()
    assert not Path(f"/proc/{pid}").exists(), "not even a zombie is left"


async def test_the_resource_tracker_of_an_engine_may_finish_its_work(processes, tmp_path) -> None:
    code = f"'resource_tracker'; import time; time.sleep(0.5); open({str(tmp_path / 'done')!r}, 'w')"
    started = asyncio.create_task(asyncio.to_thread(orphan, sys.executable, "-c", code))
    while not started.done():
        processes.scan()
        await asyncio.sleep(0.005)
    await processes.kill_all()
    assert (tmp_path / "done").exists()


async def test_shared_memory_is_named_while_it_exists(processes) -> None:
    from multiprocessing import shared_memory

    shm = shared_memory.SharedMemory(create=True, size=64)
    path = f"/dev/shm/{shm.name}"
    assert path in processes.shared_memory()
    shm.close()
    shm.unlink()
    assert path not in processes.shared_memory()


async def test_what_others_keep_in_shared_memory_is_not_ours(deaths) -> None:
    """A model or a cache in /dev/shm is mapped by the engine, and must survive it."""
    from multiprocessing import shared_memory

    before = shared_memory.SharedMemory(create=True, size=64)
    folder = Path(f"/dev/shm/ichat-{os.getpid()}")
    folder.mkdir()
    model = folder / "model.safetensors"
    model.write_bytes(b"weights")
    try:
        processes = EngineProcesses(re.compile("^VITAL"), deaths.append)
        with model.open("rb"):
            ours = shared_memory.SharedMemory(create=True, size=64)
            assert processes.shared_memory() == [f"/dev/shm/{ours.name}"]
            ours.close()
            ours.unlink()
    finally:
        model.unlink()
        folder.rmdir()
        before.close()
        before.unlink()


@pytest.mark.parametrize("title", ["VITAL::engine", "compiler"])
async def test_cpu_time_of_an_engine_is_that_of_its_whole_tree(processes, title) -> None:
    processes.activity()
    busy = subprocess.Popen([title, "-c", "while True: pass"], executable=sys.executable)
    try:
        watch = Watch(processes.activity())
        await asyncio.sleep(0.5)
        watch.look(processes.activity(), 0.5)
        assert watch.quiet_s == 0
        # On a busy machine it waits for a core, which counts as much.
        assert processes.activity().cpu_s + processes.activity().queued_s > 0.05
    finally:
        busy.kill()
        busy.wait()


def test_a_child_dies_with_its_parent() -> None:
    start_method.adopt_orphans()
    code = (
        "import os, subprocess, sys, time\n"
        "from ichat.backends import start_method\n"
        "start_method.guard_forks()\n"
        "pid = os.fork()\n"
        "if pid == 0: time.sleep(1000)\n"
        "print(pid, flush=True); time.sleep(1000)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(child).wait(2)  # raises TimeoutExpired when it lives on


async def test_compilers_are_counted_when_they_end(processes, start) -> None:
    assert processes.compiling() == (0, 0)
    nvcc, ninja, other = start("/usr/local/cuda/bin/nvcc"), start("ninja"), start("python")
    processes.scan()
    assert processes.compiling() == (2, 0), "ninja drives, python does neither"
    nvcc.kill()
    ninja.kill()
    other.kill()
    nvcc.wait()
    ninja.wait()
    processes.scan()
    assert processes.compiling() == (0, 1)


async def test_what_a_compiler_starts_is_not_counted_again(processes) -> None:
    outer = subprocess.Popen(["g++", "-c", "(exec -a cc1plus sleep 30); true"], executable="/bin/bash", process_group=0)
    try:
        await until(lambda: processes.scan() or processes.compiling()[0] == 2, 20)
    finally:
        os.killpg(outer.pid, signal.SIGKILL)
        outer.wait()
    await until(lambda: processes.scan() or processes.compiling() == (0, 1), 20)


async def test_what_a_compiler_started_is_not_counted_when_it_outlives_that_compiler(processes) -> None:
    start_method.adopt_orphans()  # as a worker does
    script = ["g++", "-c", "(exec -a cc1plus sleep 30); true"]
    outer = subprocess.Popen(script, executable="/bin/bash", process_group=0)
    try:
        await until(lambda: processes.scan() or processes.compiling()[0] == 2, 20)
        outer.kill()
        outer.wait()
        await until(lambda: processes.scan() or processes.compiling() == (1, 1), 20)
    finally:
        os.killpg(outer.pid, signal.SIGKILL)
    await until(lambda: processes.compiling()[0] == 0, 20)
    processes.scan()  # which forgets the one that ended
    assert processes.compiling() == (0, 1)
