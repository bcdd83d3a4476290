"""The engine's command line of one instance: the unified arguments in its words, then everything else as it came."""

from __future__ import annotations

from ichat.backends.engines import ARGS, SUPPORTED
from ichat.backends.framework_args import FrameworkArgs


def backend_argv(args: FrameworkArgs) -> list[str]:
    """What the engine's own parser is given. It never becomes a process's argv: it may hold a key."""
    if args.model.backend not in ARGS:
        return []
    argv: list[str] = ARGS[args.model.backend].to_argv(
        args.model,
        accelerator=args.accelerator,
        api_key=args.api_key,
        version=SUPPORTED[args.model.backend].installed(),
    )
    return argv
