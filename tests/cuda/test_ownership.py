"""No two packages of an environment own the same file with different contents."""

from pathlib import Path

import pytest

from recipes import NAMES, ROOT
from tests.cuda.environments import ENGINES, site_packages
from tests.cuda.ownership import conflicts_in, owners_of

SET_UP = [name for name in NAMES if (ROOT / ".venvs" / name).exists()]


def test_the_environments_of_this_checkout_are_set_up() -> None:
    assert {"ichat", "vllm", "sglang", "dev"} <= set(SET_UP)


@pytest.mark.parametrize("name", SET_UP)
def test_no_package_overwrites_another(name: str) -> None:
    environment = next((ROOT / ".venvs" / name).glob("lib/python3*/site-packages"))
    assert conflicts_in(environment) == []


@pytest.mark.cuda
@pytest.mark.parametrize("engine", ENGINES)
def test_no_package_overwrites_another_for_a_gpu(engine: str) -> None:
    environment: Path = site_packages(engine)
    assert len(owners_of(environment)) > 50_000
    assert conflicts_in(environment) == []
