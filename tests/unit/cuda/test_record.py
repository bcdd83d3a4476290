"""The record of the last check of the CUDA environments fits what they are made of today."""

import os

import pytest

from tests.cuda import record


def test_the_record_fits_the_locks() -> None:
    changed = record.misfits(record.load())
    if changed and os.environ.get("CI"):
        return  # tests/cuda of the same run makes the environments and checks them
    assert not changed, (
        f"tests/cuda/record.json: {', '.join(changed)} changed since the CUDA environments were checked. "
        "Run `make cuda-check` and commit the record."
    )


def test_the_record_tells_what_passed() -> None:
    told = record.load()
    assert set(told["passed"]) == {path.name for path in record.RECORD.parent.glob("test_*.py")}
    assert all(told["passed"].values())


@pytest.mark.parametrize("pattern", record.BOUND_TO)
def test_what_the_record_depends_on_is_there(pattern: str) -> None:
    assert list(record.ROOT.glob(pattern))


def test_a_change_of_anything_it_depends_on_is_noticed() -> None:
    now = record.hashes()
    assert record.misfits({"bound_to": now}) == []
    for what in (record.COMMAND_LINES, *record.BOUND_TO):
        assert record.misfits({"bound_to": now | {what: "another"}}) == [what]


def test_without_a_record_all_is_to_be_checked() -> None:
    assert record.misfits({}) == [record.COMMAND_LINES, *record.BOUND_TO]
