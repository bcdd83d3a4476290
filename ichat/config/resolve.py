"""From all sources to the settings that hold, or every problem at once. Nothing changes after this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel

from ichat.config.command_line import CommandLine, peek, read_command_line
from ichat.config.engine import Engine
from ichat.config.merge import Rank
from ichat.config.names import Path, model_variable, sections, words
from ichat.config.nearest import nearest
from ichat.config.one_model import ModelResolver, choose_backend
from ichat.config.ranks import RankReader, on_command_line
from ichat.config.schema import Model, Settings
from ichat.config.selection import VARIABLE, select_models
from ichat.config.settings_file import FileSettings, read_file
from ichat.config.sources import Sources
from ichat.config.values import Given, read_section
from ichat.config.variables import VariableSettings, read_variables
from ichat.errors import ConfigError, Problem

_ENGINE_VARIABLES = ("ICHAT_VLLM_ARGS", "ICHAT_SGLANG_ARGS")


@dataclass(frozen=True)
class Resolved:
    """The settings that hold. ``origins`` names the place of each value that somebody gave, by its dotted path."""

    settings: Settings
    origins: Mapping[str, str]
    notices: tuple[str, ...]
    sources: Sources

    @property
    def model(self) -> Model:
        """The model that this version serves: the first."""
        return self.settings.models[0]


def resolve(sources: Sources, engines: Mapping[str, Engine]) -> Resolved:
    """Command line over environment over YAML over defaults.

    Raises ConfigError with every problem there is. ``engines`` are those of ``ichat.backends.engines``, by backend.
    Of the file system only this is asked: whether a model's path exists here, and where the demo model lies.
    """
    file = read_file(sources.document)
    environment = read_variables(sources.variables, list(file.models))
    selected, unknown = select_models(file.models, sources.variables.get(VARIABLE))
    file = replace(file, models=selected)
    resolver = _Resolver(sources, engines, file, environment, ModelResolver(sources, engines))
    models = resolver.several_models() if len(file.models) > 1 else resolver.only_model()
    fixed = {path[0]: resolver.section(path) for path in sections() if len(path) == 1}
    problems = [*sources.problems, *unknown, *resolver.models.problems, *environment.problems, *file.problems]
    if problems:
        raise ConfigError(_each_once(problems))
    notices = (*environment.notices, *resolver.models.notices, *_notices(models, resolver, engines))
    return Resolved(Settings(models=tuple(models), **fixed), resolver.models.origins, notices, sources)


@dataclass
class _Resolver:
    sources: Sources
    engines: Mapping[str, Engine]
    file: FileSettings
    environment: VariableSettings
    models: ModelResolver
    command_line: CommandLine | None = None

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
            self.models.origins |= {".".join((*path, name)): given.place for name, given in givens.items()}
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
        found = [model for model in models if model]
        self._refuse_same_names(found)
        return found

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

    def _refuse_same_names(self, models: list[Model]) -> None:
        """Two models may not answer to one name."""
        first: dict[str, str] = {}
        for model in models:
            other = first.setdefault(model.served_name, model.name)
            if other != model.name:
                message = f"is served as {model.served_name}, and so is {other} ({self._place(other)})."
                given = self.file.models[model.name]
                self.models.problems.append(given.problem(message, "E-CFG-DUPLICATE"))

    def _place(self, name: str) -> str:
        return self.models.origins.get(f"models.{name}.served_model_name", self.file.models[name].place)


def _notices(models: list[Model], resolver: _Resolver, engines: Mapping[str, Engine]) -> list[str]:
    """What a person should know although nothing is wrong."""
    first, *rest = models
    notices = []
    if rest:
        names = ", ".join(model.name for model in rest)
        advice = "ICHAT_MODELS chooses another"
        notices.append(f"models: this version serves the first, {first.name}; only checked: {names}. {advice}")
    if first.instances > 1:
        notices.append(f"{first.name}: this version runs one instance, not {first.instances}")
    if first.trust_remote_code:
        notices.append(f"{first.name}: trust_remote_code is on: Python code that comes with the model will be run")
    line = resolver.command_line.givens if resolver.command_line else {}
    if ("server", "api_key") in line:
        notices.append("--api-key: every user of this machine can read a command line; use ICHAT_API_KEY_FILE instead")
    engine = engines.get(first.backend)
    if engine and first.memory_fraction is not None and not engine.by_setting["memory_fraction"].is_same:
        word = engine.by_setting["memory_fraction"]
        value = word.convert(first.memory_fraction) if word.convert else first.memory_fraction
        notices.append(f"memory_fraction: {engine.title} gets {word.flag} {value}, {word.note}")
    return notices


def _each_once(problems: list[Problem]) -> list[Problem]:
    """As the user typed them: the command line, the environment, files line by line."""
    unique = {(problem.place, problem.message): problem for problem in problems}
    return sorted(unique.values(), key=lambda problem: _position(problem.place))


def _position(place: str) -> tuple[int, str, int, int]:
    parts = place.rsplit(":", 2)
    if len(parts) == 3 and parts[1].isdigit() and parts[2].isdigit():
        return (2, parts[0], int(parts[1]), int(parts[2]))
    return (0 if place.startswith("-") else 1, "", 0, 0)
