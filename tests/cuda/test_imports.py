"""What the engines import on a GPU can be imported in the environments of the image, and they still look for it there."""

import re
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.cuda.environments import ENGINES, Ran, run_inside, site_packages
from tests.cuda.imports import IMPORTS, Import

pytestmark = pytest.mark.cuda

CASES = [(engine, entry) for engine in ENGINES for entry in IMPORTS[engine]]


@pytest.fixture(scope="module")
def imported() -> dict[tuple[str, str], Future[Ran]]:
    """Each in a process of its own, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        return {(engine, entry.module): pool.submit(_import, engine, entry) for engine, entry in CASES}


def _import(engine: str, entry: Import) -> Ran:
    program = f"{entry.after}\nimport importlib\nimportlib.import_module({entry.module!r})"
    return run_inside(engine, "-c", program, timeout_s=300)


@pytest.mark.parametrize(("engine", "entry"), CASES, ids=[f"{engine}-{entry.module}" for engine, entry in CASES])
def test_module_can_be_imported(engine: str, entry: Import, imported: dict[tuple[str, str], Future[Ran]]) -> None:
    ran = imported[engine, entry.module].result()
    if entry.needs_device:
        assert ran.code != 0
        assert entry.needs_device in ran.words, ran.words[-2000:]
    else:
        assert ran.code == 0, ran.words[-2000:]


@pytest.mark.parametrize(("engine", "entry"), CASES, ids=[f"{engine}-{entry.module}" for engine, entry in CASES])
def test_the_engine_looks_for_it_there(engine: str, entry: Import) -> None:
    package, _, leaf = entry.module.rpartition(".")
    text = (site_packages(engine) / engine / entry.looked_for_in).read_text()
    words = rf"\b{re.escape(entry.module)}\b|\b{re.escape(leaf)}\b" if package else rf"\b{re.escape(entry.module)}\b"
    assert re.search(words, text), f"{entry.looked_for_in} does not name {entry.module} any more: look where it is now"
