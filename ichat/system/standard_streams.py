"""Descriptors 0 to 2: closed by whoever started us, the first socket would become one of them, and lost in a child."""

from __future__ import annotations

import os


def open_closed() -> list[int]:
    """Open /dev/null on those that are closed, and tell which. Before anything else is opened."""
    found = []
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            found.append(fd)
            # The lowest free descriptor is this one, since those below it are open by now.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    return found
