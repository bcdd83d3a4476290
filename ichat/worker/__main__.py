"""``python -m ichat.worker --control-fd N``: started by the launcher only."""

from __future__ import annotations

import argparse
import os

from ichat.backends import start_method


def main() -> None:
    """Never returns. The exit code is the outcome of ``serve``."""
    # First of all, and before any import that takes time: whoever started us must not be outlived.
    start_method.die_with_parent(os.getppid())
    start_method.adopt_orphans()
    start_method.guard_forks()
    parser = argparse.ArgumentParser(prog="ichat.worker")
    parser.add_argument("--control-fd", type=int, required=True)
    control_fd = parser.parse_args().control_fd

    from ichat.worker.serve import serve

    serve(control_fd)


if __name__ == "__main__":
    main()
