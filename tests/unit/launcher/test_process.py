"""Children: started in process groups of their own, reaped, and buried with all that came from them."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ichat.errors import ResourceError
from ichat.launcher.process import Child, Exit, Processes
from ichat.system.process_table import read

_PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture
async def processes() -> AsyncIterator[Processes]:
    made = Processes()
    made.open()
    yield made
    made.kill_all_now()
    made.close()
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def spawn(processes: Processes, *argv: str) -> Child:
    with open(os.devnull, "wb") as nowhere:
        return processes.spawn("demo/0", argv, env=os.environ, pass_fds=(), output_fd=nowhere.fileno())


def is_alive(pid: int) -> bool:
    process = read(pid)
    return process is not None and not process.is_dead


async def wait_for_file(path: Path) -> str:
    async with asyncio.timeout(10):
        while not path.exists() or not path.read_text().endswith("\n"):
            await asyncio.sleep(0.01)
    return path.read_text()


async def test_an_exit_is_told_with_its_code_or_signal(processes: Processes) -> None:
    ended = await spawn(processes, "sh", "-c", "exit 7").ended
    assert (ended.code, ended.signal, ended.words) == (7, None, "exited with code 7")
    child = spawn(processes, "sleep", "100")
    child.terminate()
    ended = await child.ended
    assert (ended.code, ended.signal, ended.words) == (None, 15, "was killed by SIGTERM")
    assert ended.peak_rss_bytes > 0
    child.terminate()  # the pid is not its any more: nothing is sent


async def test_a_signal_without_a_name_has_its_number() -> None:
    assert Exit(None, 40).words == "was killed by signal 40"


async def test_a_child_leads_its_own_group_in_our_session(processes: Processes) -> None:
    child = spawn(processes, "sleep", "100")
    found = read(child.pid)
    assert found is not None
    assert (found.group, found.ppid) == (child.pid, os.getpid())
    assert os.getsid(child.pid) == os.getsid(0), "another session would be scheduled apart from ours"


async def test_a_program_that_is_not_there_is_told(processes: Processes) -> None:
    with pytest.raises(ResourceError, match="could not start /nowhere/python"):
        spawn(processes, "/nowhere/python")


async def test_a_burial_finds_forks_that_left_the_group_and_lost_their_parents(
    processes: Processes, tmp_path: Path
) -> None:
    told = tmp_path / "pids"
    script = f"setsid sh -c 'sleep 100 & echo $! >> {told}.part' & wait; sleep 100 & echo $! >> {told}.part; "
    script += f"mv {told}.part {told}; kill -STOP $!; wait"
    child, neighbour = spawn(processes, "sh", "-c", script), spawn(processes, "sleep", "100")
    pids = [int(pid) for pid in (await wait_for_file(told)).split()]
    assert len(pids) == 2
    os.kill(child.pid, signal.SIGKILL)
    await child.ended
    assert all(is_alive(pid) for pid in pids)
    assert await processes.kill_everything(child) == []
    assert not any(read(pid) for pid in pids), "killed, and reaped: not even a zombie"
    assert is_alive(neighbour.pid)


async def test_a_tracker_of_shared_memory_may_clean_up_before_it_goes(processes: Processes, tmp_path: Path) -> None:
    told = tmp_path / "name"
    script = (
        "import time; from multiprocessing import shared_memory; from pathlib import Path\n"
        f"segment = shared_memory.SharedMemory(create=True, size=10); Path({str(told)!r}).write_text(segment.name + chr(10))\n"
        "time.sleep(100)"
    )
    child = spawn(processes, sys.executable, "-c", script)
    segment = Path("/dev/shm") / (await wait_for_file(told)).strip()
    assert segment.exists()
    assert await processes.kill_everything(child) == []
    assert not segment.exists()


async def test_a_burial_of_what_is_gone_is_quick_and_harmless(processes: Processes) -> None:
    child = spawn(processes, "true")
    await child.ended
    began = time.monotonic()
    assert await processes.kill_everything(child) == []
    assert time.monotonic() - began < 0.5


async def test_orphans_are_reaped(processes: Processes, tmp_path: Path) -> None:
    told = tmp_path / "pid"
    child = spawn(processes, "sh", "-c", f"(sleep 0.2 & echo $! > {told}); exit 0")
    await child.ended
    orphan = int(await wait_for_file(told))
    async with asyncio.timeout(5):
        while read(orphan) is not None:
            await asyncio.sleep(0.02)
