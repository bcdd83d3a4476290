"""The command `ichat warm`: its own two flags, and which of its two ways is meant."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ichat.config.resolve import Resolved
from ichat.errors import ExitCode, UsageError
from ichat.launcher import warm_without_device as without
from ichat.launcher.signals import StopSignals

#: Its own flags, with what their value is; all others are those of serve.
_FLAGS = {"--arch": "a CUDA architecture, such as sm_90", "--into": "a directory"}


def run(
    argv: Sequence[str],
    signals: StopSignals,
    check: Callable[[Sequence[str]], Resolved],
    say: Callable[[str], None],
) -> int:
    """The exit code; ``say`` gets what a person shall read."""
    own, rest = take_own(argv)
    if "--arch" in own:
        return _without_device(own, check(rest), say)
    return _on_device(own, rest, signals, check, say)


def take_own(argv: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The values of the command's own flags, `--arch sm_90` or `--arch=sm_90`, and the arguments without them."""
    rest: list[str] = []
    own: dict[str, str] = {}
    words = iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        if name not in _FLAGS:
            rest.append(word)
        elif value := value if equals else next(words, ""):
            own[name] = value
        else:
            raise UsageError(f"{name}: needs {_FLAGS[name]}.")
    if "--arch" in own:
        own["--arch"] = without.read_arch(own["--arch"])
    return own, rest


def _on_device(
    own: Mapping[str, str],
    argv: Sequence[str],
    signals: StopSignals,
    check: Callable[[Sequence[str]], Resolved],
    say: Callable[[str], None],
) -> int:
    from ichat.launcher.app import Outside
    from ichat.launcher.warm import environment_of, render, warm
    from ichat.observe.logs import set_up_logs

    resolved = check(argv)
    environ = environment_of(resolved.sources, own.get("--into"))
    writer = set_up_logs(resolved.settings.server.log_format, is_debug=resolved.sources.is_debug)
    try:
        found = warm(resolved, Outside(signals, environ, writer, lambda: check(argv)))
    finally:
        writer.close()
    say("\n".join(render(found)))
    return found.code


def _without_device(own: Mapping[str, str], resolved: Resolved, say: Callable[[str], None]) -> int:
    """0 also where something could not be done: each item says so, and no start needs it. Not where nothing was."""
    from ichat.launcher.warm import environment_of

    environ, items = environment_of(resolved.sources, own.get("--into")), []
    for item in without.warm_without_device(without.models_of(resolved), own["--arch"], environ):
        items.append(item)
        say(without.render(item))
    say(without.render_end(items))
    return ExitCode.OK if any(item.is_done for item in items) else ExitCode.RESOURCE
