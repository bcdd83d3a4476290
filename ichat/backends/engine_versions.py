"""Which version of an engine is installed, whether ichat serves it, and where it keeps what we call. Imports none."""

from __future__ import annotations

import importlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ichat.config.sources import UNTESTED_ENGINE, allows_untested_engine
from ichat.errors import ConfigError, Problem

Name = Literal["vllm", "sglang"]


@dataclass(frozen=True)
class SupportedVersions:
    """The versions of one engine that the contract tests vouch for: from ``since`` on, and below ``before``."""

    engine: Name
    title: str
    distributions: tuple[str, ...]  # as their folders of metadata are called
    since: str
    before: str

    @property
    def words(self) -> str:
        return f">={self.since},<{self.before}"

    def includes(self, version: str) -> bool:
        """Whether ichat serves it. A pre-release of the first version beyond the range counts as that version."""
        return release(self.since) <= release(version) < release(self.before)

    def installed(self, home: Path | None = None) -> str | None:
        """The version in an environment, without its local part: ours if it holds the engine, else the one beside it.

        None: there is no such environment. Costs two looks into a directory.
        """
        own = Path(sys.prefix)
        homes = (own, own.parent / self.engine) if home is None else (home,)
        return next((found for each in homes if (found := self._version_in(each))), None)

    def check_installed(self, subject: str, home: Path | None = None) -> None:
        """ConfigError if the installed version is none that ichat serves, unless the user has taken that upon them."""
        version = self.installed(home)
        if version is None or self.includes(version) or allows_untested_engine():
            return
        what = f"{self.title} {version} is installed, and ichat is tested with {self.words}."
        way_out = f"Install one of these, or set {UNTESTED_ENGINE}=1 to try it all the same."
        raise ConfigError([Problem("E-ENV-VERSION", f"{subject}:", f"{what} {way_out}")])

    def _version_in(self, home: Path) -> str | None:
        for name in self.distributions:
            for metadata in home.glob(f"lib/python3*/site-packages/{name}-*.dist-info"):
                return metadata.name.removesuffix(".dist-info").partition("-")[2].partition("+")[0]
        return None


def release(version: str) -> tuple[int, ...]:
    """``0.5.13.post1`` → (0, 5, 13): what orders releases; zeros at the end do not count."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    numbers = [int(part) for part in found[0].split(".")] if found else [0]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def first_of(*places: str) -> Any:
    """What stands at the first place, ``module:name``, that the installed engine has. ImportError names them all."""
    found = find_first(*places)
    if found is None:
        raise ImportError(f"{' or '.join(places)}: not in the installed version")
    return found


def find_first(*places: str) -> Any:
    """The same; None where no place has it.

    A module that is there but cannot be imported is no reason to look elsewhere: its error is the one to be told.
    """
    for place in places:
        module, _, name = place.partition(":")
        try:
            return getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            if not (error.name and f"{module}.".startswith(f"{error.name}.")):
                raise
        except AttributeError:
            continue
    return None
