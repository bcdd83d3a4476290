"""The limit of open files: raised as far as we may, and refused at the start where it could only fail later."""

from __future__ import annotations

import resource

from ichat.errors import ResourceError

#: Launcher, front and an engine's server with some connections; an engine alone may have two hundred.
_NEEDED = 512


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
