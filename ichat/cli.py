"""The command line: from argv to one call. Only here is printed and exited; each command imports what it needs."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ichat.config.first_words import as_ichat
from ichat.errors import ExitCode, IchatError, TemporaryError, UsageError, error_line, system_failure
from ichat.system.standard_streams import open_closed

if TYPE_CHECKING:
    from ichat.config.resolve import Resolved

HELP = """\
ichat serves a Hugging Face model on vLLM or SGLang behind one OpenAI-compatible port.

usage: ichat [COMMAND] [ARGUMENTS]

  serve      serve a model (the command when there is none); without any setting: the demo model
  config     print the settings that hold, and where each comes from
  explain    print the command line that either engine gets, and what would change on the other; `explain MODEL` for one
  warm       fill the caches: start as serve does up to ready, ask, stop, and tell what was written;
             `warm --arch sm_90`: what can be done without the device; `--into DIR`: caches in that directory
  health     one line: is it ready? Exit code 0 only then
  status     a table: every instance, its state, process, restarts
  plan       what a reload of the configuration file would change in the running ichat, and how
  reload     take the configuration file as it is now; only what differs is touched, no request fails
  restart    restart MODEL: replace its instances one by one, no request fails
  version    print the version of ichat and of the engines it knows
  help       print this

serve, config, explain and warm take the same arguments:

  --config FILE            the YAML file (ICHAT_CONFIG)
  --backend vllm|sglang    the engine (ICHAT_BACKEND)
  --model-path PATH        a directory or a Hugging Face repository (ICHAT_MODEL_PATH)
  --context-length N       and every other setting; `ichat config` prints them all
  any flag of the engine   passed on as it is

example: ichat serve --backend sglang --model-path Qwen/Qwen2.5-0.5B-Instruct --context-length 8192

ICHAT_RUN_DIR and ICHAT_PORT tell health, status, plan, reload and restart which ichat is meant.
ICHAT_DEBUG=1 adds tracebacks to errors.
Exit codes and signals: docs/operations.md."""


def main() -> None:
    """Run one command; the exit code is the outcome."""
    open_closed()
    sys.exit(run(sys.argv[1:]))


def run(argv: Sequence[str]) -> int:
    """The exit code of one command. What fails says so on stderr, in one line for each problem."""
    try:
        return _command(argv)
    except IchatError as error:
        return _fail(error.line(), error.exit_code, is_traceback=_is_debug())
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # noqa: BLE001  our bug: the traceback, then the line that ends every failure
        line = error_line("E-INTERNAL", f"ichat: {error!r}. This is a bug in ichat: please report the lines above.")
        return _fail(line, ExitCode.SOFTWARE, is_traceback=True)


def _command(argv: Sequence[str]) -> int:
    commands: dict[str, Callable[[Sequence[str]], int]] = {
        "serve": _serve,
        "config": _config,
        "explain": _explain,
        "warm": _warm,
        "health": _health,
        "status": _status,
        "plan": _plan,
        "reload": _reload,
        "restart": _restart,
        "version": _version,
        "help": _help,
        "--version": _version,
        "--help": _help,
        "-h": _help,
    }
    argv = as_ichat(argv)
    name, rest = (argv[0], argv[1:]) if argv else ("serve", ())
    if name not in commands and name.startswith("-"):
        name, rest = "serve", argv
    if name not in commands:
        raise UsageError(f'ichat: there is no command "{name}". `ichat help` lists them.')
    if name in ("serve", "config", "explain", "warm") and {"--help", "-h"} & set(rest):
        return _help(())
    return commands[name](rest)


def _say(text: str) -> None:
    """Print it. Without a reader there is nobody to tell, and the outcome is the same; else it must arrive."""
    if sys.stdout is None:  # `ichat version >&-`
        return
    try:
        print(text.removesuffix("\n"), flush=True)
    except OSError as error:
        # Python would try again at the end, and complain in its own words.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # `ichat config | head`: the reader has seen enough
            raise system_failure("standard output", error) from error


def _fail(line: str, code: int, *, is_traceback: bool) -> int:
    """The error line comes last; a reader of stderr that does not read cannot hold our end up."""
    from ichat.observe.logs import say_last

    say_last(traceback.format_exc() + line if is_traceback else line)
    return code


def _is_debug() -> bool:
    from ichat.config.sources import Sources

    return Sources.read(()).is_debug


def _resolve(argv: Sequence[str]) -> Resolved:
    from pathlib import Path

    from ichat.backends.engines import installed_versions, load_engines, refuse_missing_extras
    from ichat.config.resolve import resolve
    from ichat.config.sources import Sources

    resolved = resolve(Sources.read(argv), load_engines(installed_versions()))
    # The engines' environments stand beside ours.
    refuse_missing_extras(resolved.settings.models, Path(sys.prefix).parent, resolved.origins)
    return resolved


def _checked(argv: Sequence[str]) -> Resolved:
    """Resolved, and the models are all there as far as their files tell; what a person should know is in notices."""
    from dataclasses import replace
    from pathlib import Path

    from ichat.backends.engines import refuse_missing_packages
    from ichat.config.preflight import preflight

    resolved = _resolve(argv)
    notices = preflight(resolved)
    models, environ = resolved.settings.models, resolved.sources.environ
    refuse_missing_packages(models, Path(sys.prefix).parent, resolved.origins, environ)
    return replace(resolved, notices=(*resolved.notices, *notices))


# ---- commands -------------------------------------------------------------------------------------------------


def _serve(argv: Sequence[str]) -> int:
    # Before everything that takes time: a stop in the first instants must not look like a crash.
    from ichat.launcher.signals import StopSignals

    signals = StopSignals()
    resolved = _checked(argv)
    from ichat.launcher.app import Outside, serve
    from ichat.observe.logs import set_up_logs

    sources = resolved.sources
    writer = set_up_logs(resolved.settings.server.log_format, is_debug=sources.is_debug)
    try:
        outside = Outside(signals, sources.worker_environment(), writer, lambda: _checked(argv))
        return serve(resolved, outside)
    finally:
        writer.close()


def _config(argv: Sequence[str]) -> int:
    resolved = _resolve(argv)
    from ichat.config.report import render_config

    _say(render_config(resolved))
    return 0


def _explain(argv: Sequence[str]) -> int:
    name, rest = (None, argv) if not argv or argv[0].startswith("-") else (argv[0], argv[1:])
    resolved = _resolve(rest)
    names = [model.name for model in resolved.settings.models]
    if name is not None and name not in names:
        raise UsageError(f'explain: there is no model "{name}". There is {", ".join(names)}.')
    from ichat.backends.explain import render_explain
    from ichat.launcher.environment import accelerator_of

    _say(render_explain(resolved, accelerator_of, name))
    return 0


def _warm(argv: Sequence[str]) -> int:
    from ichat.launcher.signals import StopSignals

    signals = StopSignals()
    from ichat.launcher.warm_command import run as run_warm

    return run_warm(argv, signals, _checked, _say)


def _health(argv: Sequence[str]) -> int:
    _refuse_arguments("health", argv)
    from ichat.config.sources import Sources
    from ichat.launcher.probe import ask_health, probe_socket

    is_ready, words = ask_health(probe_socket(Sources.read(()).environ))
    _say(words)
    return 0 if is_ready else 1


def _status(argv: Sequence[str]) -> int:
    _refuse_arguments("status", argv)
    from ichat.config.sources import Sources
    from ichat.launcher.probe import ask_status, probe_socket, table

    path = probe_socket(Sources.read(()).environ)
    status = ask_status(path)
    if status is None:
        _say(f"not running: nobody answers in {path.parent}. ICHAT_PORT or ICHAT_RUN_DIR say which ichat is meant.")
        return 1
    _say("\n".join(table(status)))
    return 0 if status["ready"] else 1


def _plan(argv: Sequence[str]) -> int:
    _refuse_arguments("plan", argv)
    from ichat.launcher.orders import render_plan

    return _order("GET", "/plan", render_plan)


def _reload(argv: Sequence[str]) -> int:
    _refuse_arguments("reload", argv)
    from ichat.launcher.orders import render_report

    return _order("POST", "/reload", render_report)


def _restart(argv: Sequence[str]) -> int:
    from urllib.parse import quote

    from ichat.launcher.orders import render_report

    if len(argv) != 1:
        raise UsageError("ichat restart: needs the name of one model; `ichat status` lists them.")
    return _order("POST", f"/restart/{quote(argv[0], safe='')}", render_report)


def _order(method: str, target: str, render: Callable[[dict[str, Any]], Iterable[str]]) -> int:
    """Have the running ichat do it; what it says, and the exit code of the outcome."""
    from ichat.config.sources import Sources
    from ichat.launcher.probe import order, probe_socket

    path = probe_socket(Sources.read(()).environ)
    answer = order(path, method, target)
    if answer is None:
        raise TemporaryError(
            f"{path.parent}: nobody answers there. ICHAT_PORT or ICHAT_RUN_DIR say which ichat is meant.",
            code="E-NOT-RUNNING",
        )
    if "generation" in answer:
        _say("\n".join(render(answer)))
    if errors := answer.get("errors"):
        return _fail("\n".join(errors), answer["exit_code"], is_traceback=False)
    return 0


def _version(argv: Sequence[str]) -> int:
    _refuse_arguments("version", argv)
    from ichat import __version__
    from ichat.backends.engines import installed_versions, load_engines

    known = ", ".join(engine.version for engine in load_engines(installed_versions()).values())
    _say(f"ichat {__version__} (for {known})")
    return 0


def _help(argv: Sequence[str]) -> int:
    del argv
    _say(HELP)
    return 0


def _refuse_arguments(command: str, argv: Sequence[str]) -> None:
    if argv:
        raise UsageError(f"{argv[0]}: `ichat {command}` takes no arguments. Leave it out.")
