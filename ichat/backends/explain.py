"""What ``ichat explain`` prints: the exact command line of either engine, and what differs on the other one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

from ichat.backends.engine_argv import own_args
from ichat.backends.engines import ARGS, installed_versions, load_engines
from ichat.config.engine import Engine
from ichat.config.flags import WrongValueError
from ichat.config.resolve import Resolved
from ichat.config.schema import Model
from ichat.config.secrets import hide, masked_argv

Accelerator = Literal["cpu", "cuda"]


def render_explain(resolved: Resolved, accelerator_of: Callable[[Model], Accelerator], only: str | None = None) -> str:
    """For each model, or the one that is named: its engine's argv and, below, the other engine's, with what would be
    lost."""
    models = [model for model in resolved.settings.models if only in {None, model.name}]
    lines: list[str] = []
    for model in models:
        lines += [*([""] if lines else []), *_explain(model, accelerator_of(model), resolved.hidden)]
    lines += _listed("Notices:", resolved.notices)
    text: str = hide("\n".join(lines), resolved.hidden)
    return text + "\n"


def _explain(model: Model, accelerator: Accelerator, hidden: frozenset[str]) -> list[str]:
    if model.backend not in ARGS:
        return [f"{model.name} runs on the backend {model.backend}, which has no command line."]
    other = "sglang" if model.backend == "vllm" else "vllm"
    lines = [
        f"{model.name} on {_engine(model.backend).version} ({accelerator}):",
        "",
        *_argv(model, accelerator, hidden),
    ]
    lines += _listed("What differs from the unified meaning:", _differences(_engine(model.backend), model))
    moved = model.model_copy(update={"backend": other, "engine_args": {}, "extra_argv": ()})
    lines += ["", f"the same on {_engine(other).version} ({accelerator}):", ""]
    try:
        lines += _argv(moved, accelerator, hidden)
    except WrongValueError as error:
        lines.append(f"  cannot be said: {error}")
    lines += _listed("What differs from the unified meaning:", _differences(_engine(other), moved))
    lines += _listed("What would be lost:", _lost(_engine(model.backend), _engine(other), model))
    return lines


def _engine(backend: str) -> Engine:
    return load_engines(installed_versions())[backend]


def _argv(model: Model, accelerator: Accelerator, hidden: frozenset[str]) -> Iterator[str]:
    """One flag with its values a line, as a shell would take it."""
    import shlex

    engine = _engine(model.backend)
    argv = ARGS[model.backend].to_argv(model, accelerator=accelerator, version=engine.catalogue.version)
    for argument in engine.catalogue.split(argv):
        yield "  " + " ".join(shlex.quote(word) for word in hide(masked_argv(argument.tokens), hidden))
    needed = ARGS[model.backend].environment(model, accelerator) | model.env
    shown = masked_argv([f"--{name}={value}" for name, value in sorted(needed.items())])
    yield "  environment: " + " ".join(shlex.quote(word.removeprefix("--")) for word in hide(shown, hidden))


def _differences(engine: Engine, model: Model) -> Iterator[str]:
    for word in engine.words:
        if word.note and getattr(model, word.setting) is not None:
            yield f"{word.setting} → {word.flag}: {word.note}"


def _lost(engine: Engine, other: Engine, model: Model) -> Iterator[str]:
    """The engine's own words: the other engine may have something alike, but ichat does not guess."""
    words = [f"--{key}" for key in own_args(engine, model)]
    words += [a.flag.word for a in engine.catalogue.split(model.extra_argv) if a.flag is not None]
    for word in dict.fromkeys(words):
        equal = engine.equivalents.get(word)
        advice = f"{other.title} has {equal}" if equal else _namesake(other, word)
        yield f"{word}: {advice}"


def _namesake(other: Engine, word: str) -> str:
    if word in other.catalogue.by_spelling:
        return f"{other.title} has a flag of the same name; whether it means the same is not known to ichat"
    return f"{other.title} has no such flag"


def _listed(title: str, entries: Iterator[str] | tuple[str, ...]) -> list[str]:
    found = [f"  - {entry}" for entry in entries]
    return ["", title, *found] if found else []
