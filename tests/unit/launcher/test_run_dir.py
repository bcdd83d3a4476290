"""The run directory: chosen, locked, cleaned, removed."""

from __future__ import annotations

import errno
import json
import os
import shlex
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from ichat.errors import ConfigError, ExitCode, IchatError, PermissionDeniedError, TemporaryError
from ichat.launcher.probe import probe_socket, status_command
from ichat.launcher.run_dir import RunDir, choose
from ichat.system import process_table


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Short, as a path with sockets in it must be."""
    with tempfile.TemporaryDirectory(prefix="ichat-") as name:
        yield Path(name)


def test_it_is_made_for_us_alone_and_removed(tmp_path: Path) -> None:
    run_dir = RunDir.claim(tmp_path / "deep" / "run")
    assert run_dir.path.stat().st_mode & 0o777 == 0o700
    folder = run_dir.new_worker()
    assert (folder / "tmp").is_dir()
    run_dir.remove()
    run_dir.remove()
    assert not run_dir.path.exists()


def test_a_second_owner_is_refused_by_name(tmp_path: Path) -> None:
    first = RunDir.claim(tmp_path / "run")
    with pytest.raises(TemporaryError, match=f"in use by the ichat with pid {os.getpid()}"):
        RunDir.claim(tmp_path / "run")
    first.remove()
    RunDir.claim(tmp_path / "run").remove()


def test_a_directory_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "thesis.txt").write_text("ten years of work")
    with pytest.raises(ConfigError, match=r"thesis\.txt"):
        RunDir.claim(tmp_path)
    assert (tmp_path / "w").exists()


def test_a_path_too_long_for_sockets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="too long"):
        RunDir.claim(tmp_path / ("x" * 100))


def test_a_place_that_cannot_be_written_is_a_matter_of_permission() -> None:
    with pytest.raises(PermissionDeniedError) as found:
        RunDir.claim(Path("/proc/ichat"))
    assert found.value.exit_code == 77


def test_a_full_disk_is_no_matter_of_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(IchatError, match="No space left on device") as found:
        RunDir.claim(tmp_path / "run")
    assert found.value.exit_code == ExitCode.CANNOT_CREATE


def test_what_a_killed_predecessor_left_is_removed(tmp_path: Path) -> None:
    """Its lock went with it; its processes, memory and files did not."""
    path = tmp_path / "run"
    left = subprocess.Popen(["sleep", "1000"], process_group=0)
    segment = Path("/dev/shm") / f"ichat-test-{uuid.uuid4().hex}"
    segment.write_bytes(b"x")
    script = (
        "import sys, os; from pathlib import Path; from ichat.launcher.run_dir import RunDir\n"
        "run_dir = RunDir.claim(Path(sys.argv[1])); run_dir.new_worker()\n"
        "run_dir.residue.started(int(sys.argv[2])); run_dir.residue.holds([sys.argv[3]])\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(path), str(left.pid), str(segment)], check=False)
    assert (path / "w" / "1").exists()
    run_dir = RunDir.claim(path)
    assert left.wait(5) == -9
    assert not segment.exists()
    assert list((path / "w").iterdir()) == []
    run_dir.remove()


def test_shared_memory_that_nobody_has_freed_goes_with_it(tmp_path: Path) -> None:
    """As after a third signal, which leaves no time to bury a worker."""
    segments = [Path("/dev/shm") / f"ichat-test-{uuid.uuid4().hex}" for _ in range(2)]
    for segment in segments:
        segment.write_bytes(b"x")
    run_dir = RunDir.claim(tmp_path / "run")
    run_dir.holds("a", [str(segment) for segment in segments])
    run_dir.remove()
    assert not any(segment.exists() for segment in segments)


def test_it_is_removed_although_somebody_has_damaged_it(tmp_path: Path) -> None:
    run_dir = RunDir.claim(tmp_path / "run")
    (run_dir.path / "w").rmdir()
    (run_dir.path / "w").write_text("no directory")
    run_dir.remove()
    assert not run_dir.path.exists()


def test_a_pid_that_somebody_else_has_got_since_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "run"
    innocent = subprocess.Popen(["sleep", "1000"], process_group=0)
    first = RunDir.claim(path)
    first.residue.started(innocent.pid)
    residue = json.loads((path / "residue.json").read_text())
    residue["groups"] = {str(innocent.pid): residue["groups"][str(innocent.pid)] - 1}
    first.remove()
    path.mkdir()
    (path / "residue.json").write_text(json.dumps(residue))
    RunDir.claim(path).remove()
    assert process_table.read(innocent.pid) is not None
    assert innocent.poll() is None
    innocent.kill()
    innocent.wait()


def test_an_unreadable_note_does_not_stop_the_start(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.mkdir()
    (path / "residue.json").write_text("{half")
    RunDir.claim(path).remove()
    assert not path.exists()


def test_where_it_is(tmp_path: Path) -> None:
    assert choose("some/dir", 8000, None) == Path.cwd() / "some/dir"
    if not os.access("/run/ichat", os.W_OK):
        assert choose(None, 8000, str(tmp_path)) == tmp_path / "ichat-8000"
        assert choose(None, 8000, None) == Path(f"/tmp/ichat-{os.getuid()}-8000")
        assert choose(None, 8000, "/nowhere") == Path(f"/tmp/ichat-{os.getuid()}-8000")


@pytest.mark.parametrize(
    ("setting", "port", "said"),
    [
        (None, 8000, "./entrypoint status"),
        (None, 9000, "ICHAT_PORT=9000 ./entrypoint status"),
        ("/a b/run", 8000, "ICHAT_RUN_DIR='/a b/run' ./entrypoint status"),
    ],
)
def test_what_to_type_finds_it(setting: str | None, port: int, said: str, tmp_path: Path) -> None:
    if os.access("/run/ichat", os.W_OK) and setting is None:
        said = "./entrypoint status"  # where everybody looks first
    path = choose(setting, port, str(tmp_path))
    typed = status_command(path, port, str(tmp_path))
    assert typed == said
    env = dict(word.split("=") for word in shlex.split(typed) if "=" in word)
    assert probe_socket({"XDG_RUNTIME_DIR": str(tmp_path), **env}).parent == path
