"""Limits of open files and of their size: raised as far as we may, and refused at the start, not when it is late."""

from __future__ import annotations

import resource

from ichat.errors import ResourceError

#: Launcher, front and an engine's server with some connections; an engine alone may have two hundred.
_NEEDED = 512


#: Shared memory, compiled kernels and caches are files: an engine that may not write them dies without saying why.
_NEEDED_FILE_BYTES = 256 * 1024 * 1024


def raise_file_size_limit() -> None:
    """Ours and that of all children (`ulimit -f`). ResourceError: it is too low for any engine."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if hard != resource.RLIM_INFINITY and hard < _NEEDED_FILE_BYTES:
        raise ResourceError(
            f"size of files: the hard limit is {hard} bytes, engines need {_NEEDED_FILE_BYTES} at least."
            " Raise it (ulimit -Hf unlimited).",
            code="E-OS-FILE-SIZE",
        )
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def raise_descriptor_limit() -> None:
    """Ours and, by inheritance, that of all children. ResourceError: it is too low for any service.

    Between that and what ``server.limits.connections`` needs the front takes fewer connections, and says so.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < _NEEDED:
        raise ResourceError(
            f"open files: the hard limit is {hard}, ichat needs {_NEEDED} at least."
            f" Raise it (ulimit -Hn {_NEEDED}, docker run --ulimit nofile={_NEEDED}).",
            code="E-OS-DESCRIPTORS",
        )
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
