"""Every test here runs the image in real containers: one Docker engine and one build for all of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.image import engine


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/image/" in item.nodeid:
            item.add_marker(pytest.mark.image)


@pytest.fixture(scope="session", autouse=True)
def image() -> Iterator[str]:
    """The built image; there is always an engine behind it, or one line that says how to get one."""
    try:
        with engine.running_engine():
            yield engine.build_image()
    except engine.NoDockerError as error:
        pytest.fail(str(error), pytrace=False)
