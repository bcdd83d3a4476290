"""The engine's command line of one instance: the unified arguments in its words, then everything else as it came."""

from __future__ import annotations

from ichat.backends.framework_args import FrameworkArgs


def backend_argv(args: FrameworkArgs) -> list[str]:
    """What the engine's own parser is given. It never becomes a process's argv: it may hold a key."""
    if args.model.backend == "vllm":
        from ichat.backends import vllm_args

        return vllm_args.to_argv(args.model, accelerator=args.accelerator, api_key=args.api_key)
    if args.model.backend == "sglang":
        from ichat.backends import sglang_args

        return sglang_args.to_argv(args.model, accelerator=args.accelerator, api_key=args.api_key)
    return []
