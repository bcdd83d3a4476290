"""Makes environments so that at every moment each is either whole or not there, whatever interrupts us."""

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from extras import EXTRAS
from recipes import GB, Recipe

STAMP = ".complete"
#: The names of an environment's extras, one a line; not there without any. ichat refuses settings that need others.
EXTRAS_FILE = "extras"


class SetupError(Exception):
    """A foreseen failure, in words for the person who typed `make setup`."""


class UnavailableError(SetupError):
    """This recipe cannot be had on this machine; the next one may."""


class Installer(Protocol):
    """Makes the contents of an environment. What it needs itself it fetches at the first call."""

    def create(self, environment: Path) -> None:
        """Make it empty, with a Python."""

    def install(self, environment: Path, lock: Path) -> None:
        """Raises UnavailableError if what the lock names is not to be had here, SetupError on any other failure."""

    def check(self, environment: Path, statement: str) -> None:
        """Run a statement of Python in it. Raises SetupError with its last words when it fails."""

    def finish(self, environment: Path, final: Path) -> None:
        """Make its first use fast. `final` is where it will stand."""


Say = Callable[[str], None]


def is_complete(environment: Path, recipes: Sequence[Recipe]) -> bool:
    """True if the environment is what one of the recipes makes today. Reads a few small files, writes none."""
    try:
        stamp = (environment / STAMP).read_text()
    except OSError:
        return False
    # A Python that was upgraded away leaves a dangling link behind.
    return (environment / "bin" / "python").exists() and any(stamp == recipe.stamp() for recipe in recipes)


@dataclass(frozen=True)
class Site:
    """Where environments are made, and where they will stand when they are used (the image copies them)."""

    into: Path
    final: Path | None = None

    def of(self, name: str) -> Path:
        """Where the environment of this name will stand."""
        return (self.final or self.into) / name


def set_up(site: Site, wanted: dict[str, tuple[Recipe, ...]], installer: Installer, say: Say) -> bool:
    """Make what is not complete yet, in the order given. False if there was nothing to do."""
    into = site.into
    if all(is_complete(into / name, recipes) for name, recipes in wanted.items()):
        return False
    with only_one(into, say):
        for number, (name, recipes) in enumerate(wanted.items(), start=1):
            label = f"[{number}/{len(wanted)}] {name}"
            if is_complete(into / name, recipes):
                say(f"{label}: up to date")
            else:
                _make_best(site, recipes, installer, label, say)
    return True


@contextmanager
def only_one(directory: Path, say: Say) -> Iterator[None]:
    """Keep other runs out of the directory until we, and all that we started, are done."""
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{directory}: another set-up is at work; waiting for it")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        # The processes we start inherit the lock: if we are killed, the next run waits until they are gone too.
        os.set_inheritable(descriptor, True)
        yield
    finally:
        os.close(descriptor)


def _make_best(site: Site, recipes: Sequence[Recipe], installer: Installer, label: str, say: Say) -> None:
    for recipe, alternative in zip(recipes, (*recipes[1:], None), strict=True):
        try:
            _make(site, recipe, installer, label, say)
        except UnavailableError as error:
            if alternative is None:
                raise
            say(
                f"{label}: {error} Taking the registry's build of torch instead: it works on a CPU too, but brings the "
                f"CUDA libraries (needs up to {alternative.needs_bytes / GB:.0f} GB)."
            )
        else:
            return


def _make(site: Site, recipe: Recipe, installer: Installer, label: str, say: Say) -> None:
    started, into = time.monotonic(), site.into
    building, replaced, final = (into / name for name in (f".new-{recipe.name}", f".old-{recipe.name}", recipe.name))
    for leftover in (building, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    _check_space(into, recipe)
    say(f"{label}: {recipe.package_count()} packages")
    installer.create(building)
    for lock in recipe.locks:
        installer.install(building, lock)
    site_packages = next(building.glob("lib/python3*/site-packages"))
    (site_packages / "ichat.pth").write_text(recipe.path_file())
    for extra in recipe.extras:
        _check_extra(building, extra, installer, label, say)
    if recipe.extras:
        (building / EXTRAS_FILE).write_text("".join(f"{extra}\n" for extra in recipe.extras))
    say(f"{label}: compiling to bytecode")
    installer.finish(building, site.of(recipe.name))
    (building / STAMP).write_text(recipe.stamp())
    if final.exists():
        final.rename(replaced)
    building.rename(final)
    shutil.rmtree(replaced, ignore_errors=True)
    say(f"{label}: ready in {time.monotonic() - started:.0f} s, {_size_bytes(final) / GB:.1f} GB")


def _check_extra(building: Path, extra: str, installer: Installer, label: str, say: Say) -> None:
    say(f"{label}: checking {extra}")
    for statement in EXTRAS[extra].checks:
        try:
            installer.check(building, statement)
        except SetupError as error:
            raise SetupError(
                f"EXTRAS={extra}: installed, but `{statement}` fails: {error} Leave {extra} out, or mend that."
            ) from error


def _check_space(into: Path, recipe: Recipe) -> None:
    free_bytes = shutil.disk_usage(into).free
    if free_bytes < recipe.needs_bytes:
        raise SetupError(
            f"{into}: {free_bytes / GB:.1f} GB free, and {recipe.name} needs up to {recipe.needs_bytes / GB:.1f} GB. "
            "Free some space, or limit what is set up: make setup ENGINES=vllm."
        )


def _size_bytes(directory: Path) -> int:
    """Space on disk, counting a file with several names once. Other environments and the cache may share it."""
    seen: dict[int, int] = {}
    for folder, _, names in os.walk(directory):
        for name in names:
            status = Path(folder, name).lstat()
            seen[status.st_ino] = status.st_blocks * 512
    return sum(seen.values())
