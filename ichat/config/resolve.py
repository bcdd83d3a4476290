"""From all sources to the settings that hold, or every problem at once. Nothing changes after this."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel

from ichat.config.agreement import disagreements, without_slashes
from ichat.config.api_keys import gather_keys
from ichat.config.collisions import same_gpus, same_names
from ichat.config.command_line import CommandLine, peek, read_command_line
from ichat.config.engine import Engine
from ichat.config.foreign import reserved_variables, unread_variables
from ichat.config.lingering import WHY_NOT, without_routers
from ichat.config.merge import Rank
from ichat.config.names import Path, model_variable, sections, words
from ichat.config.nearest import nearest
from ichat.config.notices import notices_of
from ichat.config.one_model import ModelResolver, choose_backend
from ichat.config.ranks import RankReader, on_command_line
from ichat.config.schema import Model, Settings
from ichat.config.secrets import hide
from ichat.config.selection import VARIABLE, select_models
from ichat.config.settings_file import FileSettings, read_file
from ichat.config.sources import Sources
from ichat.config.substitution import Substitution, variables_in
from ichat.config.values import Given, read_section
from ichat.config.variables import VariableSettings, read_variables
from ichat.errors import ConfigError, Problem

_ENGINE_VARIABLES = ("ICHAT_VLLM_ARGS", "ICHAT_SGLANG_ARGS")


@dataclass(frozen=True)
class Resolved:
    """The settings that hold. ``origins`` names the place of each value that somebody gave, by its dotted path
    (of a default that depends on where we are: why it holds); ``hidden`` are texts that may not be shown wherever they
    stand (secrets by the names of their variables).
    ``names_models``: the configuration file does, so that nothing stands in for them."""

    settings: Settings
    origins: Mapping[str, str]
    notices: tuple[str, ...]
    sources: Sources
    hidden: frozenset[str] = frozenset()
    names_models: bool = False


def resolve(sources: Sources, engines: Mapping[str, Engine]) -> Resolved:
    """Command line over environment over YAML over defaults.

    Raises ConfigError with every problem there is. ``engines`` are those of ``ichat.backends.engines``, by backend.
    Of the file system only this is asked: whether a model's path exists here, where the demo model lies, and what is
    in the files of keys. It keeps nothing: called again, for a reload, it answers from the sources it is given then.
    """
    file = read_file(sources.document)
    used = variables_in(sources.document.root) if sources.document else set()
    environment = read_variables(sources.variables, list(file.models), used)
    selected, unknown = select_models(file.models, sources.variables.get(VARIABLE))
    substitution = Substitution(sources.environ)
    file = replace(file, models=selected, givens=_filled(file, selected, substitution))
    resolver = _Resolver(sources, engines, file, environment, ModelResolver(sources, engines))
    models = resolver.several_models() if len(file.models) > 1 else resolver.only_model()
    resolver.refuse_collisions(models)
    resolver.models.problems += reserved_variables(models, engines, sources.environ)
    fixed = resolver.fixed_sections()
    problems = [*sources.problems, *unknown, *resolver.models.problems, *environment.problems, *file.problems]
    if problems or substitution.problems:
        raise ConfigError(_told(problems, substitution))
    is_key_in_argv = resolver.models.origins.get("server.api_key") == "--api-key"
    unread = () if resolver.is_model_named(models) else unread_variables(sources.environ)
    found = (*environment.notices, *unread, *notices_of(models, engines, is_key_in_argv=is_key_in_argv))
    notices = tuple(hide(notice, substitution.hidden) for notice in found)
    return Resolved(
        Settings(models=tuple(models), **fixed),
        resolver.models.origins,
        notices,
        sources,
        frozenset(substitution.hidden),
        bool(file.models),
    )


@dataclass
class _Resolver:
    sources: Sources
    engines: Mapping[str, Engine]
    file: FileSettings
    environment: VariableSettings
    models: ModelResolver
    command_line: CommandLine | None = None
    givens: dict[str, Given] = field(default_factory=dict)  # of the fixed sections, by dotted path: those that hold

    def fixed_sections(self) -> dict[str, Any]:
        """The sections beside the models, checked together, with every key of the public port in one place."""
        found = {path[0]: self.section(path) for path in sections() if len(path) == 1}
        self.models.problems += disagreements(found["server"], found["admin"], found["gateway"], self.givens)
        of_server = {path.removeprefix("server."): given for path, given in self.givens.items()}
        keys = gather_keys(found["server"], of_server, self.sources)
        self.models.problems += keys.problems
        self.models.origins |= {f"server.api_keys.{name}": given.place for name, given in keys.givens.items()}
        server = found["server"].model_copy(update={"api_keys": keys.values})
        given, environ = self.models.origins, self.sources.environ
        if (timeouts := without_routers(found["timeouts"], found["gateway"], given, environ)) is not None:
            found["timeouts"] = timeouts
            self.models.origins["timeouts.linger_s"] = WHY_NOT
        return found | {"server": server, "gateway": without_slashes(found["gateway"])}

    def section(self, path: Path) -> Any:
        """A section with a fixed place; where a value is wrong its default stands in (the problem is noted)."""
        section: type[BaseModel] = sections()[path]
        merged: dict[str, Any] = {}
        line = self.command_line.givens if self.command_line else {}
        for layer in (self.file.givens, self.environment.givens, line):
            givens = {key[-1]: given for key, given in layer.items() if key[:-1] == path}
            values, problems = read_section(section, givens)
            self.models.problems += problems
            merged |= values
            self.givens |= {".".join((*path, name)): given for name, given in givens.items()}
        self.models.origins |= {name: given.place for name, given in self.givens.items()}
        inner = {p[-1]: self.section(p) for p in sections() if p[:-1] == path}
        return section(**merged, **inner)

    def only_model(self) -> list[Model]:
        """The one model of the file, or the one that environment and command line describe, or the demo model."""
        name = next(iter(self.file.models), None)
        layers = self._layers(name)
        backend = choose_backend(peek(self.sources.arguments, "--backend"), layers)
        reader = RankReader(self.engines.get(backend), self.engines)
        names = [layer.pop("name", None) for layer in layers]
        ranks = [reader.read(layer) for layer in layers]
        if reader.engine and (given := self.sources.variables.get(f"ICHAT_{backend.upper()}_ARGS")):
            ranks[-1].words.absorb(reader.read_text(given))
        ranks.append(self._command_line_rank(reader))
        assert self.command_line is not None
        given_name = self.command_line.givens.get(("model", "name"), names[-1])
        model = self.models.resolve(self.file.models.get(name or ""), backend, ranks, given_name)
        return [model] if model else []

    def several_models(self) -> list[Model]:
        """The models of the file. Words that do not say which of them they mean are problems."""
        names = list(self.file.models)
        self._refuse_short(names)
        models = []
        for name in names:
            layers = self._layers(name)
            backend = choose_backend(None, layers)
            reader = RankReader(self.engines.get(backend), self.engines)
            ranks = [reader.read(layer) for layer in layers]
            models.append(self.models.resolve(self.file.models[name], backend, ranks, None))
        return [model for model in models if model]

    def refuse_collisions(self, models: Sequence[Model]) -> None:
        """What the models may not share."""
        for model in models:
            if model.name in self.file.models:
                self.models.givens[model.name]["name"] = self.file.models[model.name]
        self.models.problems += same_names(models, self.models.givens)
        self.models.problems += same_gpus(models, self.models.givens)

    def is_model_named(self, models: Sequence[Model]) -> bool:
        """Whether anything says what to serve, be it the demo model by its name."""
        origins = self.models.origins
        named = (origins.get(f"models.{model.name}.{key}") for model in models for key in ("model_path", "name"))
        return bool(self.file.models) or any(origin is not None for origin in named)

    def _layers(self, name: str | None) -> list[dict[str, Given]]:
        """What was said of a model, lowest first: defaults, its section, its variables."""
        file, environment = self.file.givens, self.environment.givens
        own = {path[2]: given for path, given in environment.items() if path[:2] == ("models", name)}
        short = {path[1]: given for path, given in environment.items() if path[0] == "model"}
        for key, given in short.items() if len(self.file.models) <= 1 else ():
            before = own.setdefault(key, given)
            if before.raw != given.raw:
                message = f"gives {key} another value than {before.place}. Set one of them."
                self.models.problems.append(given.problem(message, "E-CFG-CONFLICT"))
        return [
            {path[1]: given for path, given in file.items() if path[0] == "defaults"},
            {path[1]: given for path, given in environment.items() if path[0] == "defaults"},
            {path[2]: given for path, given in file.items() if path[:2] == ("models", name)},
            own,
        ]

    def _command_line_rank(self, reader: RankReader) -> Rank:
        line = self.command_line = read_command_line(self.sources.arguments, reader.engine)
        self.models.problems += line.problems
        givens = {path[1]: given for path, given in line.givens.items() if path[0] == "model" and path[1] != "name"}
        if reader.engine:
            return Rank(givens, reader.read_arguments(line.arguments))
        for argument in line.arguments:
            meant = nearest(argument.word, words())
            advice = f"did you mean {meant}?" if meant else "nothing is called like it."
            problem = on_command_line(argument).problem(f"unknown flag; {advice}", "E-CFG-UNKNOWN-FLAG")
            self.models.problems.append(problem)
        return Rank(givens)

    def _refuse_short(self, names: list[str]) -> None:
        which = f"which model? The file has {', '.join(names)}"
        line = self.command_line = read_command_line(self.sources.arguments, None)
        self.models.problems += line.problems
        found = [(path, given) for path, given in self.environment.givens.items() if path[0] == "model"]
        for path, given in found:
            example = f"ICHAT_MODELS__{model_variable(names[0])}__{path[1].upper()}"
            self.models.problems.append(given.problem(f"{which}; set {example} instead.", "E-CFG-AMBIGUOUS"))
        unclear = [self.sources.variables[name] for name in _ENGINE_VARIABLES if name in self.sources.variables]
        unclear += [given for path, given in line.givens.items() if path[0] == "model"]
        unclear += [on_command_line(argument) for argument in line.arguments]
        self.models.problems += [given.problem(f"{which}; set it there.", "E-CFG-AMBIGUOUS") for given in unclear]


def _filled(file: FileSettings, selected: Mapping[str, Given], substitution: Substitution) -> dict[Path, Given]:
    """What the file gives, with its variables; those of models that are not served may be set elsewhere only."""
    return {
        path: substitution.fill(given) if path[0] != "models" or path[1] in selected else given
        for path, given in file.givens.items()
    }


def _told(problems: list[Problem], substitution: Substitution) -> list[Problem]:
    """What follows from a variable that is not set is left out, and secrets of variables are."""
    unset = {problem.place for problem in substitution.problems}
    found = [*substitution.problems, *(problem for problem in problems if problem.place not in unset)]
    return [replace(problem, message=hide(problem.message, substitution.hidden)) for problem in _each_once(found)]


def _each_once(problems: list[Problem]) -> list[Problem]:
    """As the user typed them: the command line, the environment, files line by line."""
    unique = {(problem.place, problem.message): problem for problem in problems}
    return sorted(unique.values(), key=lambda problem: _position(problem.place))


def _position(place: str) -> tuple[int, str, int, int]:
    parts = place.rsplit(":", 2)
    if len(parts) == 3 and parts[1].isdigit() and parts[2].isdigit():
        return (2, parts[0], int(parts[1]), int(parts[2]))
    return (0 if place.startswith("-") else 1, "", 0, 0)
