"""Configurations for the tests of this directory: what a user typed, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from ichat.backends.engines import load_engines
from ichat.config.resolve import Resolved, resolve
from ichat.config.sources import Sources
from ichat.errors import ConfigError, Problem

Configure = Callable[..., Resolved]
Refuse = Callable[..., list[Problem]]


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("configuration")


@pytest.fixture(scope="session")
def configure(scratch: Path) -> Configure:
    """Resolve a command line, an environment and the text of a configuration file."""

    def run(*argv: str, env: Mapping[str, str] | None = None, yaml: str | bytes | None = None) -> Resolved:
        arguments: Sequence[str] = argv
        if yaml is not None:
            path = scratch / "configs.yaml"
            path.write_bytes(yaml if isinstance(yaml, bytes) else yaml.encode())
            arguments = ("--config", str(path), *argv)
        return resolve(Sources.read(arguments, env or {}), load_engines())

    return run


@pytest.fixture(scope="session")
def refuse(configure: Configure) -> Refuse:
    """All problems of a configuration that must be refused."""

    def run(*argv: str, env: Mapping[str, str] | None = None, yaml: str | bytes | None = None) -> list[Problem]:
        with pytest.raises(ConfigError) as caught:
            configure(*argv, env=env, yaml=yaml)
        return caught.value.problems

    return run


@pytest.fixture
def lines(refuse: Refuse, scratch: Path) -> Callable[..., list[str]]:
    """The problems as ``place message``, with the file called configs.yaml."""

    def run(*argv: str, env: Mapping[str, str] | None = None, yaml: str | bytes | None = None) -> list[str]:
        found = refuse(*argv, env=env, yaml=yaml)
        return [f"{problem.place} {problem.message}".replace(f"{scratch}/", "") for problem in found]

    return run
