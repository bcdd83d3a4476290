"""Runs the checks of the CUDA environments if the record of the last ones does not fit, else leaves them to the record.

`ICHAT_TEST_FULL=1` runs them in any case. A whole run that passed writes the record; `make cuda-check` is such a run.
"""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cuda import record
from tests.cuda.environments import build_environments

HERE = Path(__file__).parent
PASSED: Counter[str] = Counter()
FACTS: dict[str, Any] = {}
BOUND_TO = record.hashes()  # now: what changes while the checks run is not checked


def is_wanted() -> bool:
    return bool(os.environ.get("ICHAT_TEST_FULL")) or bool(record.misfits(record.load()))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    heavy = [item for item in items if item.get_closest_marker("cuda")]
    if heavy and not is_wanted():
        config.hook.pytest_deselected(items=heavy)
        items[:] = [item for item in items if item not in heavy]
        told = record.load()
        print(f"tests/cuda: {len(heavy)} checks as recorded on {told['made']}; ICHAT_TEST_FULL=1 runs them again")


@pytest.fixture(scope="session", autouse=True)
def environments(request: pytest.FixtureRequest) -> None:
    if any(item.get_closest_marker("cuda") for item in request.session.items):
        build_environments()


@pytest.fixture(scope="session")
def facts() -> dict[str, Any]:
    """What a check found that is worth reading in the record."""
    return FACTS


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.when == "call" and report.passed and item.get_closest_marker("cuda"):
        PASSED[item.path.name] += 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    """The whole of it passed, nothing left out: that is worth a record."""
    heavy = [item for item in session.items if item.get_closest_marker("cuda")]
    files = {item.path.name for item in heavy}
    all_files = {path.name for path in HERE.glob("test_*.py") if "pytest.mark.cuda" in path.read_text()}
    is_whole = files == all_files and not session.config.option.keyword and not session.config.option.markexpr
    if heavy and is_whole and PASSED.total() == len(heavy):
        record.write(BOUND_TO, PASSED, FACTS)
        print(f"\n{record.RECORD}: written. Commit it.")
