"""Turns what an engine raises while it starts into one of our failures, with the exit code that tells what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NoReturn

from ichat.backends.remote_code import words_of
from ichat.errors import ConfigError, ExitCode, IchatError, Problem, known_refusal

#: (exit code, code, names of exception classes, what to do). Names, because no engine may be imported to ask.
_BY_CLASS: tuple[tuple[ExitCode, str, frozenset[str], str], ...] = (
    (
        ExitCode.PERMISSION,
        "E-HUB-DENIED",
        frozenset({"GatedRepoError", "DisabledRepoError"}),
        "Accept the model's terms on the hub, and set HF_TOKEN.",
    ),
    (
        ExitCode.NO_INPUT,
        "E-MODEL-MISSING",
        frozenset(
            {"RepositoryNotFoundError", "RevisionNotFoundError", "EntryNotFoundError", "RemoteEntryNotFoundError",
             "HFValidationError"}
        ),
        "Check model_path and revision; a private model needs HF_TOKEN.",
    ),
    (
        ExitCode.TEMPORARY,
        "E-HUB-UNREACHABLE",
        frozenset(
            {"LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectError", "ConnectionError", "ConnectTimeout",
             "ReadTimeout", "gaierror", "MaxRetryError", "HfHubHTTPError"}
        ),
        "The hub cannot be reached: try again later, or give model_path a directory.",
    ),
    (
        ExitCode.RESOURCE,
        "E-OS-MEMORY",
        frozenset({"OutOfMemoryError", "MemoryError"}),
        "Lower context_length or memory_fraction, or use a larger device.",
    ),
    (
        ExitCode.DATA,
        "E-MODEL-DATA",
        frozenset({"SafetensorError"}),
        "The weights are damaged: download the model again.",
    ),
)  # fmt: skip
_BY_NAME = {name: (exit_code, code, advice) for exit_code, code, names, advice in _BY_CLASS for name in names}


#: As transformers' check_imports says it.
_MISSING_FOR_CODE = re.compile(
    r"requires the following packages that were not found in your environment: ([^.]+)\. Run"
)
#: The package that transformers puts the code of models into.
_CODE_OF_MODELS = "transformers_modules"


def refuse_arguments(engine: str, words: str) -> NoReturn:
    """The engine's own parser, or ichat on its behalf, does not take these arguments."""
    raise ConfigError([Problem("E-CFG-ENGINE-ARGS", "engine_args", f"{engine} refuses them: {words}")])


def explain_start_failure(error: Exception) -> IchatError:
    """The failure to report for whatever an engine raised while it started.

    An ``IchatError`` is returned as it is. Otherwise the chain of causes is searched for something known, from
    the outermost to the innermost; what is unknown is the engine's failure, told by its class and first line.
    """
    if isinstance(error, IchatError):
        return error
    for cause in _chain(error):
        if packages := _packages_of_model(cause):
            # What transformers, or Python, found missing for the model's own code; another start would find it again.
            words = words_of("the engine could not start", packages)
            return IchatError(words, code="E-MODEL-PACKAGES", exit_code=ExitCode.CONFIG)
        known = _known(cause)
        if known is not None:
            exit_code, code, advice = known
            return IchatError(f"the engine could not start: {_words(cause)} {advice}", code=code, exit_code=exit_code)
    return IchatError(
        f"the engine could not start: {_words(error)} The log above has its own last lines.",
        code="E-ENG-START",
        exit_code=ExitCode.ENGINE,
    )


def _known(error: BaseException) -> tuple[ExitCode, str, str] | None:
    """By the nearest class of its ancestry: that a file is not in the cache (no network) is, to the hub's library, also
    that it is nowhere; and that it is not on the hub is also an HTTP error."""
    for cls in type(error).__mro__:
        # The built-in ConnectionError is the engine's own broken pipe, not a hub that cannot be reached.
        if (cls.__module__ != "builtins" or cls is MemoryError) and cls.__name__ in _BY_NAME:
            return _BY_NAME[cls.__name__]
    return known_refusal(error)


def _packages_of_model(error: BaseException) -> list[str]:
    """The packages that the code of a model (trust_remote_code) needs and that are not installed."""
    if not isinstance(error, ImportError):
        return []
    if found := _MISSING_FOR_CODE.search(str(error)):
        return found[1].replace(" ", "").split(",")
    trace = error.__traceback__
    while trace is not None:
        if _CODE_OF_MODELS in trace.tb_frame.f_globals.get("__name__", ""):
            return [error.name.partition(".")[0]] if error.name and isinstance(error, ModuleNotFoundError) else []
        trace = trace.tb_next
    return []


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _words(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    first = lines[0].strip().rstrip(".") if lines else ""
    return f"{type(error).__name__}: {first}." if first else f"{type(error).__name__}."
