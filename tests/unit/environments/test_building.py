"""An environment is whole or not there, and one that is whole is not touched again."""

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from building import SetupError, Site, UnavailableError, is_complete, set_up
from recipes import BESIDE, NAMES, Recipe, recipes_for
from uv import complete_cuda
from versions import CPU, further_versions

Wanted = dict[str, tuple[Recipe, ...]]


class FakeInstaller:
    """Makes an environment of empty files; fails before its step `fails_at` with `error`."""

    def __init__(
        self, error: BaseException | None = None, fails_at: str = "", on_create: Callable[[], None] = lambda: None
    ):
        self.error = error
        self.fails_at = fails_at
        self.on_create = on_create
        self.steps: list[str] = []

    def create(self, environment: Path) -> None:
        self._step(f"create {environment.name}")
        self.on_create()
        (environment / "bin").mkdir(parents=True)
        (environment / "bin" / "python").symlink_to(sys.executable)
        (environment / "lib" / "python3.11" / "site-packages").mkdir(parents=True)

    def install(self, environment: Path, lock: Path) -> None:
        self._step(f"install {lock.name}")
        (environment / lock.name).write_text(lock.read_text())

    def check(self, environment: Path, statement: str) -> None:
        self._step(f"check {statement}")

    def finish(self, environment: Path, final: Path) -> None:
        self._step(f"finish {final.name}")
        self.finished_for = final

    def _step(self, name: str) -> None:
        if self.error is not None and name.startswith(self.fails_at):
            raise self.error
        self.steps.append(name)


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "a.txt"
    path.write_text("one==1 \\\n    --hash=sha256:11\ntwo==2 \\\n    --hash=sha256:22\n")
    return path


@pytest.fixture
def wanted(lock: Path) -> Wanted:
    return {"a": (Recipe("a", (lock,), needs_bytes=1),), "b": (Recipe("b", (lock,), needs_bytes=1),)}


def snapshot(directory: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in (directory, *directory.rglob("*"))}


def test_what_will_be_moved_is_made_for_where_it_will_stand(tmp_path: Path, lock: Path) -> None:
    installer = FakeInstaller()
    only = {"a": (Recipe("a", (lock,), needs_bytes=1),)}
    set_up(Site(tmp_path / "cache", final=Path("/image")), only, installer, lambda line: None)
    assert (tmp_path / "cache" / "a" / "bin" / "python").exists()
    assert installer.finished_for == Path("/image/a")


def test_what_is_asked_for_is_made_and_said(tmp_path: Path, wanted: Wanted) -> None:
    said: list[str] = []
    assert set_up(Site(tmp_path / "envs"), wanted, FakeInstaller(), said.append) is True
    assert all(is_complete(tmp_path / "envs" / name, recipes) for name, recipes in wanted.items())
    assert said[0] == "[1/2] a: 2 packages"
    assert said[-1].startswith("[2/2] b: ready in ")


def test_a_second_run_touches_nothing(tmp_path: Path, wanted: Wanted) -> None:
    set_up(Site(tmp_path / "envs"), wanted, FakeInstaller(), lambda line: None)
    before, second = snapshot(tmp_path), FakeInstaller()
    assert set_up(Site(tmp_path / "envs"), wanted, second, lambda line: None) is False
    assert second.steps == []
    assert snapshot(tmp_path) == before


def test_only_what_changed_is_made_again(tmp_path: Path, wanted: Wanted) -> None:
    set_up(Site(tmp_path / "envs"), wanted, FakeInstaller(), lambda line: None)
    other = tmp_path / "b.txt"
    other.write_text("three==3 \\\n    --hash=sha256:33\n")
    second, said = FakeInstaller(), list[str]()
    set_up(Site(tmp_path / "envs"), wanted | {"b": (Recipe("b", (other,), needs_bytes=1),)}, second, said.append)
    assert second.steps == ["create .new-b", "install b.txt", "finish b"]
    assert said[0] == "[1/2] a: up to date"
    assert sorted(path.name for path in (tmp_path / "envs").iterdir()) == [".lock", "a", "b"]


@pytest.mark.parametrize("step", ["create", "install", "finish"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), SetupError("no network")])
def test_an_interruption_leaves_the_old_environment_whole_and_the_next_run_goes_on(
    tmp_path: Path, wanted: Wanted, lock: Path, step: str, error: BaseException
) -> None:
    envs = tmp_path / "envs"
    set_up(Site(envs), wanted, FakeInstaller(), lambda line: None)
    old = {name: (envs / name / "a.txt").read_text() for name in wanted}
    lock.write_text("one==2 \\\n    --hash=sha256:44\n")
    with pytest.raises(type(error)):
        set_up(Site(envs), wanted, FakeInstaller(error, fails_at=step), lambda line: None)
    assert {name: (envs / name / "a.txt").read_text() for name in wanted} == old
    assert not any(is_complete(envs / name, recipes) for name, recipes in wanted.items())

    set_up(Site(envs), wanted, FakeInstaller(), lambda line: None)
    assert all(is_complete(envs / name, recipes) for name, recipes in wanted.items())
    assert sorted(path.name for path in envs.iterdir()) == [".lock", "a", "b"]


def test_an_environment_whose_python_is_gone_is_made_again(tmp_path: Path, wanted: Wanted) -> None:
    set_up(Site(tmp_path / "envs"), wanted, FakeInstaller(), lambda line: None)
    python = tmp_path / "envs" / "a" / "bin" / "python"
    python.unlink()
    python.symlink_to(tmp_path / "gone")
    assert not is_complete(tmp_path / "envs" / "a", wanted["a"])


def test_without_the_first_choice_the_second_is_taken_and_named_with_its_size(tmp_path: Path, lock: Path) -> None:
    second_lock = tmp_path / "second.txt"
    second_lock.write_text("one==1 \\\n    --hash=sha256:11\n")
    recipes = (Recipe("a", (lock,), needs_bytes=1), Recipe("a", (second_lock,), needs_bytes=10**9))
    installer, said = FakeInstaller(UnavailableError("no wheel here."), fails_at="install a.txt"), list[str]()
    set_up(Site(tmp_path / "envs"), {"a": recipes}, installer, said.append)
    assert installer.steps[-2:] == ["install second.txt", "finish a"]
    assert sum("no wheel here." in line and "needs up to 1 GB" in line for line in said) == 1
    assert is_complete(tmp_path / "envs" / "a", recipes)


def test_without_any_choice_the_reason_is_raised(tmp_path: Path, wanted: Wanted) -> None:
    with pytest.raises(UnavailableError, match="no wheel here"):
        set_up(Site(tmp_path), wanted, FakeInstaller(UnavailableError("no wheel here"), "install"), lambda line: None)


def test_too_little_space_is_said_before_anything_is_fetched(tmp_path: Path, lock: Path) -> None:
    installer = FakeInstaller()
    with pytest.raises(SetupError, match=r"GB free, and a needs up to 1000000.0 GB. Free some space"):
        set_up(Site(tmp_path), {"a": (Recipe("a", (lock,), needs_bytes=10**15),)}, installer, lambda line: None)
    assert installer.steps == []


def test_two_runs_at_once_do_the_work_once(tmp_path: Path, wanted: Wanted) -> None:
    waiting = threading.Event()

    def say(line: str) -> None:
        if "waiting for it" in line:
            waiting.set()

    second = FakeInstaller()
    other = threading.Thread(target=set_up, args=(Site(tmp_path / "envs"), wanted, second, say))
    is_first = [True]

    def start_the_other_run() -> None:
        if is_first.pop() if is_first else False:
            other.start()
            assert waiting.wait(10)

    set_up(Site(tmp_path / "envs"), wanted, FakeInstaller(on_create=start_the_other_run), lambda line: None)
    other.join(10)
    assert not other.is_alive()
    assert second.steps == []


def test_what_a_killed_run_left_at_work_is_waited_for(tmp_path: Path, wanted: Wanted) -> None:
    """The installer's processes hold the lock too: here a fork that outlives the run plays the orphan."""
    orphan_may_end, tell = os.pipe()
    orphans: list[int] = []

    def leave_an_orphan() -> None:
        if not orphans:
            orphans.append(
                os.posix_spawn(
                    "/bin/sh",
                    ["sh", "-c", "read _"],
                    os.environ,
                    file_actions=[(os.POSIX_SPAWN_DUP2, orphan_may_end, 0)],
                )
            )

    with pytest.raises(KeyboardInterrupt):
        set_up(
            Site(tmp_path / "envs"),
            wanted,
            FakeInstaller(KeyboardInterrupt(), "install", leave_an_orphan),
            lambda line: None,
        )

    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if "waiting for it" in line:
            os.write(tell, b"\n")

    set_up(Site(tmp_path / "envs"), wanted, FakeInstaller(), say)
    os.waitpid(orphans[0], 0)
    os.close(tell)
    os.close(orphan_may_end)
    assert "another set-up is at work; waiting for it" in said[0]


@pytest.mark.parametrize("accelerator", ["cpu", "cuda"])
@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_names_lock_files_that_are_there(name: str, accelerator: str) -> None:
    for recipe in recipes_for(name, accelerator):
        assert recipe.name == name
        assert recipe.package_count() >= 5
        assert len(recipe.stamp().split()[0]) == 64


def test_only_sglang_on_torch_for_the_cpu_gets_the_torchvision_crutch() -> None:
    with_crutch = {
        recipe.locks[-1].name
        for name in NAMES
        for accelerator in ("cpu", "cuda")
        for recipe in recipes_for(name, accelerator)
        if "cpu_torchvision" in recipe.path_file()
    }
    further = {each.lock().name for each in further_versions() if (each.engine, each.kind) == ("sglang", CPU)}
    assert with_crutch == {"sglang-cpu.txt"} | further


@pytest.mark.parametrize("accelerator", ["cpu", "cuda"])
def test_every_engine_environment_has_the_child_hook_and_no_other_has(accelerator: str) -> None:
    hooked = {name for name in NAMES if all("child_hook" in r.path_file() for r in recipes_for(name, accelerator))}
    assert hooked == {"vllm", "sglang", *BESIDE}


def test_a_linker_finds_the_cuda_that_came_as_packages(tmp_path: Path) -> None:
    libraries = tmp_path / "nvidia" / "cu13" / "lib"
    libraries.mkdir(parents=True)
    (libraries / "libcudart.so.13").touch()
    complete_cuda(tmp_path)
    complete_cuda(tmp_path)
    assert (tmp_path / "nvidia" / "cu13" / "lib64" / "libcudart.so").resolve() == libraries / "libcudart.so.13"


def test_a_linker_finds_a_driver_that_is_not_there(tmp_path: Path) -> None:
    cuda = tmp_path / "nvidia" / "cu13"
    stub = cuda / "lib64" / "stubs" / "libcuda.so"
    (cuda / "include").mkdir(parents=True)
    (cuda / "include" / "cuda.h").write_text("CUresult CUDAAPI cuInit(unsigned int Flags);")
    (cuda / "lib" / "stubs").mkdir(parents=True)
    (cuda / "lib" / "stubs" / "libcuda.so").write_bytes(b"of another version")
    complete_cuda(tmp_path)
    assert not stub.is_symlink()
    assert b"cuInit" in stub.read_bytes()
    assert b"libcuda.so.1" in stub.read_bytes()
