"""A file that is watched, as people and orchestrators change files. Real files, virtual time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ichat.config.schema import Reload, Settings, Timeouts
from ichat.config.sources import config_digest
from ichat.launcher.watch import Watch
from tests.unit.launcher.fleet_bench import AtOnce, model, settings_of

pytestmark = pytest.mark.looptime
RULES = {"timeouts": Timeouts(watch_every_s=1, settle_s=0.5)}


class Watched:
    """``read`` is what the file held each time that it was found changed."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path, self.read = path, []
        self.settings = settings
        known = config_digest(str(path))
        assert known is not None
        self.watch = Watch(str(path), known, lambda: self.settings, self._changed, AtOnce(""))

    async def _changed(self) -> None:
        self.read.append(self.path.read_text())


@contextlib.asynccontextmanager
async def watched(path: Path, *, is_on: bool = True) -> AsyncIterator[Watched]:
    it = Watched(path, settings_of(model(), reload=Reload(watch=is_on), **RULES))
    running = asyncio.create_task(it.watch.run())
    try:
        yield it
    finally:
        running.cancel()
        await asyncio.wait({running})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "configs.yaml"
    path.write_text("one")
    return path


async def test_a_change_is_found_once_it_has_settled(file: Path) -> None:
    async with watched(file) as it:
        await asyncio.sleep(5.5)
        assert it.read == []
        file.write_text("two")
        await asyncio.sleep(0.9)  # seen, and looked at for a while
        assert it.read == []
        await asyncio.sleep(0.2)
        assert it.read == ["two"]
        await asyncio.sleep(5)
        assert it.read == ["two"]


async def test_a_file_that_is_being_written_is_read_when_it_is_whole(file: Path) -> None:
    async with watched(file) as it:
        for number in range(100):
            file.write_text("x" * number)
            await asyncio.sleep(0.1)
        assert it.read == []
        file.write_text("whole")
        await asyncio.sleep(3)
        assert it.read == ["whole"]


async def test_a_file_that_is_empty_whenever_one_looks_is_not_read_while_it_is_written(file: Path) -> None:
    """Written in place it is emptied first, and an empty configuration is a valid one."""
    async with watched(file) as it:
        for number in range(100):
            file.write_text("x" * number)
            file.write_text("")
            await asyncio.sleep(0.1)
        assert it.read == []
        file.write_text("whole")
        await asyncio.sleep(3)
        assert it.read == ["whole"]


async def test_renamed_and_linked_files_are_changes_too(file: Path, tmp_path: Path) -> None:
    """As editors, and as Kubernetes does with a ConfigMap."""
    for version in ("v1", "v2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "configs.yaml").write_text(version)
    (tmp_path / "..data").symlink_to("v1")
    file.unlink()
    file.symlink_to("..data/configs.yaml")
    async with watched(file) as it:
        (tmp_path / "..new").symlink_to("v2")
        (tmp_path / "..new").rename(tmp_path / "..data")
        await asyncio.sleep(3)
        assert it.read == ["v2"]


async def test_a_file_that_is_away_for_a_while_is_no_change(file: Path) -> None:
    async with watched(file) as it:
        file.unlink()
        await asyncio.sleep(5)
        file.write_text("one")
        await asyncio.sleep(5)
        assert it.read == []
        file.write_text("two")
        await asyncio.sleep(3)
        assert it.read == ["two"]


async def test_the_same_content_written_again_is_no_change(file: Path) -> None:
    async with watched(file) as it:
        file.write_text("one")
        await asyncio.sleep(5)
        assert it.read == []


async def test_nothing_is_done_unless_it_is_switched_on_and_then_at_once(file: Path) -> None:
    async with watched(file, is_on=False) as it:
        file.write_text("two")
        await asyncio.sleep(5)
        assert it.read == []
        it.settings = settings_of(model(), reload=Reload(watch=True), **RULES)
        await asyncio.sleep(3)
        assert it.read == ["two"]
