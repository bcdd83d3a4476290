"""Calls that block: what hangs holds up neither others nor an exit."""

from __future__ import annotations

import ast
import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ichat.errors import TemporaryError
from ichat.launcher.aside import Aside

ROOT = Path(__file__).resolve().parents[3]


async def test_a_result_and_an_exception_come_back() -> None:
    aside = Aside("adding")
    assert await aside.run(lambda: 1 + 1) == 2
    with pytest.raises(ZeroDivisionError):
        await aside.run(lambda: 1 // 0)


async def test_calls_that_hang_are_refused_at_a_bound_and_taken_again_when_they_come_back() -> None:
    go_on, aside = threading.Event(), Aside("reading", most=2)
    hanging = [asyncio.create_task(aside.run(go_on.wait)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(TemporaryError, match=r"^reading: 2 earlier tries have not come back\.") as refused:
        await aside.run(lambda: None)
    assert refused.value.code == "E-READ-HANGS"
    assert await Aside("writing", most=1).run(lambda: "another purpose") == "another purpose"
    go_on.set()
    await asyncio.gather(*hanging)
    assert await aside.run(lambda: "again") == "again"


async def test_one_that_nobody_waits_for_any_more_counts_until_it_comes_back() -> None:
    go_on, aside = threading.Event(), Aside("reading", most=1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await aside.run(go_on.wait)
    with pytest.raises(TemporaryError):
        await aside.run(lambda: None)
    go_on.set()
    for _ in range(1000):
        try:
            assert await aside.run(lambda: "again") == "again"
            return
        except TemporaryError:
            await asyncio.sleep(0.001)
    pytest.fail("it never counted as back")


async def test_without_a_thread_it_is_an_error_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(BlockingIOError, match="can't start new thread"):
        await Aside("reading").run(lambda: None)


def test_an_exit_does_not_wait_for_what_hangs() -> None:
    program = """
import asyncio, threading
from ichat.launcher.aside import Aside
async def main():
    task = asyncio.create_task(Aside("reading").run(threading.Event().wait))
    await asyncio.sleep(0.05)
    task.cancel()
asyncio.run(main())
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=20, check=False, cwd=ROOT).returncode == 0


@pytest.mark.parametrize("package", ["launcher", "worker", "front"])
def test_nobody_uses_the_executor_that_everybody_shares(package: str) -> None:
    """An exit waits for its threads, and a few that hang leave none to the others."""
    found = []
    for file in sorted((ROOT / "ichat" / package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
            if name in ("to_thread", "run_in_executor", "ThreadPoolExecutor"):
                found.append(f"{file.name}:{node.lineno} {name}")  # type: ignore[attr-defined]
    assert found == [], "use launcher/aside.py"
