"""How often the tests that repeat themselves do so: all of it with ICHAT_TEST_FULL, else what a CI has time for."""

import os

IS_FULL = bool(os.environ.get("ICHAT_TEST_FULL"))


def times(full: int, part: int) -> int:
    return full if IS_FULL else part
