"""Spawned children of a killed process are gone at once; the resource tracker stays to clear up after them."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from recipes import CHILD_HOOK, ROOT

PARENT = """
import multiprocessing, multiprocessing.shared_memory, os, sys, time
from multiprocessing import resource_tracker

def report(pipe):
    pipe.send((os.getpid(), os.getppid()))
    time.sleep(600)

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    memory = multiprocessing.shared_memory.SharedMemory(create=True, size=16)
    ours, theirs = context.Pipe()
    context.Process(target=report, args=(theirs,)).start()
    child, its_parent = ours.recv()
    fork_server = its_parent if its_parent != os.getpid() else 0
    print(child, fork_server, resource_tracker._resource_tracker._pid, memory.name, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def site(tmp_path: Path) -> dict[str, str]:
    """The environment of a Python with the `.pth` file of an engine's environment."""
    (tmp_path / "sitecustomize.py").write_text(f"import site; site.addsitedir({str(tmp_path / 'site')!r})\n")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "ichat.pth").write_text(f"{ROOT}\n{CHILD_HOOK}\n")
    (tmp_path / "parent.py").write_text(PARENT)
    return {**os.environ, "PYTHONPATH": str(tmp_path)}


def is_gone_within(pidfd: int, seconds: float) -> bool:
    return bool(select.select([pidfd], [], [], seconds)[0])


class Family:
    """A parent that was killed, and pidfds of what it had started."""

    def __init__(self, tmp_path: Path, environment: dict[str, str], method: str) -> None:
        command = [sys.executable, str(tmp_path / "parent.py"), method]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
            assert parent.stdout is not None
            child, fork_server, tracker, shared = parent.stdout.readline().split()
            self.child = os.pidfd_open(int(child))
            self.fork_server = os.pidfd_open(int(fork_server)) if int(fork_server) else None
            self.tracker = os.pidfd_open(int(tracker))
            self.shared = Path("/dev/shm") / shared.decode()
            assert self.shared.exists()
            parent.kill()
            parent.stdout.close()

    def bury(self) -> None:
        for pidfd in filter(None, (self.child, self.fork_server, self.tracker)):
            if not is_gone_within(pidfd, 0):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
        self.shared.unlink(missing_ok=True)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_child_dies_with_its_parent_and_the_tracker_still_unlinks_the_shared_memory(
    tmp_path: Path, site: dict[str, str], method: str
) -> None:
    family = Family(tmp_path, site | {"ICHAT_PDEATHSIG": "1"}, method)
    try:
        assert is_gone_within(family.child, 5)
        assert family.fork_server is None or is_gone_within(family.fork_server, 5)
        assert is_gone_within(family.tracker, 5)
        assert not family.shared.exists()
    finally:
        family.bury()


def test_without_the_variable_nothing_changes(tmp_path: Path, site: dict[str, str]) -> None:
    site.pop("ICHAT_PDEATHSIG", None)
    family = Family(tmp_path, site, "spawn")
    try:
        assert not is_gone_within(family.child, 0.5)
    finally:
        family.bury()


@pytest.mark.parametrize("module", ["child_hook", "cpu_torchvision"])
def test_a_start_of_python_imports_nothing_more_for_it(module: str) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); before = set(sys.modules); "
        f"import ichat.python_start.{module} as m; m.install(); print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["ichat", "ichat.python_start", f"ichat.python_start.{module}"]
