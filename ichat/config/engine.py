"""What the resolver must know of an engine to read a command line in its words. The backends fill it in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ichat.config.flags import Catalogue, Flag
from ichat.config.schema import Model


@dataclass(frozen=True)
class Word:
    """How one engine says one unified argument.

    ``is_same`` means: the engine's own flag with the same value says the same, so ichat understands the flag as the
    unified argument. Where it is False the two may not both be given. ``note`` tells a person what differs.
    """

    setting: str
    flag: str
    is_same: bool = True
    note: str = ""
    convert: Callable[[Any], Any] | None = None  # the value in the engine's terms
    adds: Callable[[Any, Model], list[str]] | None = None  # further flags that it needs to take effect


@dataclass(frozen=True)
class Engine:
    """One engine: its flags, its words for the unified arguments, the flags that ichat keeps for itself."""

    name: str
    title: str
    catalogue: Catalogue
    words: tuple[Word, ...]
    reserved: Mapping[str, str] = field(default_factory=dict)  # flag → why it cannot be used
    equivalents: Mapping[str, str] = field(default_factory=dict)  # flag → what the other engine has instead
    reserved_variables: Mapping[str, str] = field(default_factory=dict)  # name → why it cannot be used
    gone: Mapping[str, str] = field(default_factory=dict)  # flag of an earlier version → what to do instead

    @property
    def version(self) -> str:
        return f"{self.title} {self.catalogue.version}"

    @cached_property
    def by_setting(self) -> dict[str, Word]:
        return {word.setting: word for word in self.words}

    @cached_property
    def _by_dest(self) -> dict[str, Word]:
        return {self.catalogue.by_spelling[word.flag].dest: word for word in self.words}

    def word_of(self, flag: Flag) -> Word | None:
        """The unified argument that this flag of the engine is."""
        return self._by_dest.get(flag.dest)

    def flag_of(self, setting: str) -> Flag:
        return self.catalogue.by_spelling[self.by_setting[setting].flag]
