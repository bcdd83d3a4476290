"""The real engines that the contract tests run on: as they are pinned, and in the further versions that ichat serves.

A further version is named with it (``sglang-0.5.23``), and its environment stands in ``.venvs`` under that name.
"""

from __future__ import annotations

import pytest

from tests.volume import IS_FULL
from versions import CPU, ENGINES, WITHOUT_KERNELS, further_versions


def _params(names: list[str]) -> list[object]:
    return [pytest.param(name, marks=pytest.mark.engine) for name in names]


_FURTHER = [each.name for each in further_versions() if each.kind == CPU]
#: Those that can be imported, but have no kernels for this machine.
WITHOUT = [each.name for each in further_versions() if each.kind == WITHOUT_KERNELS]
PINNED = _params(list(ENGINES))
IMPORTABLE = _params([*ENGINES, *_FURTHER, *WITHOUT])
#: For what a version is most likely to change: a whole life, every command, the drain.
EVERY = _params([*ENGINES, *_FURTHER])
#: For the rest, which repeats the way of a start or a stop: further versions only with ICHAT_TEST_FULL=1.
MOST = EVERY if IS_FULL else PINNED


def engine_of(backend: str) -> str:
    """``sglang-0.5.23`` → ``sglang``."""
    return backend.partition("-")[0]
