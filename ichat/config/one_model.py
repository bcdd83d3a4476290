"""One model, resolved: its settings from every rank, its name, its path, and what does not go together."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ichat.config.document import Scalar
from ichat.config.engine import Engine
from ichat.config.flags import WrongValueError
from ichat.config.gpus import place
from ichat.config.kinds import NAME, kinds
from ichat.config.merge import Merged, Rank, merge
from ichat.config.ranks import RankReader
from ichat.config.schema import Model, ModelSettings, adapter_text
from ichat.config.sources import Sources
from ichat.config.values import Given, Layer, read, read_section
from ichat.config.variables import FALL_BACKS
from ichat.errors import Problem

DEMO = "demo"
_LISTEN = "listen there. Give each a model of its own with instances: 1."
_OTHER_NODES = "Start the engine's own server on the others, without ichat."
#: A model of a few megabytes needs no compiler and no large cache.
_DEMO_SETTINGS = {
    "context_length": "1024",
    "vllm_args": json.dumps({"enforce-eager": True, "kv-cache-memory-bytes": 256 * 1024**2}),
}


@dataclass
class ModelResolver:
    """Resolves the models of one configuration; what is wrong gathers in ``problems``."""

    sources: Sources
    engines: Mapping[str, Engine]
    problems: list[Problem] = field(default_factory=list)
    origins: dict[str, str] = field(default_factory=dict)
    givens: dict[str, dict[str, Given]] = field(default_factory=dict)  # by model and key: those that hold

    def resolve(self, key: Given | None, backend: str, ranks: Sequence[Rank], given_name: Given | None) -> Model | None:
        """``key`` is the model's key in the file, None when the file has none; ``ranks`` stand lowest first."""
        name = _text(key) if key else None
        engine = self.engines.get(backend)
        merged = merge(ranks, engine)
        if self._is_demo(name, merged):
            merged = merge([self._demo_rank(engine), *ranks], engine)
        self.problems += merged.problems
        values = {key: value for key, value in merged.values.items() if key in ModelSettings.model_fields}
        if "lora_paths" in values:
            values["lora_paths"] = tuple(str(adapter_text(entry)) for entry in values["lora_paths"])
        path = self._path(key, values, merged)
        given_name = key if given_name is None else given_name
        named = self._name(given_name, values.get("model_path"), merged.givens.get("model_path"))
        if path is None or self.problems:
            return None
        values |= {"model_path": path, "backend": backend} | self._absolute(values)
        placed, wrong = place(values, merged.givens, _own(values, engine))
        values |= placed
        self.problems += wrong
        self.givens[named] = merged.givens
        self.origins |= {f"models.{named}.{key}": given.place for key, given in merged.givens.items()}
        self._check(merged, values, named, engine)
        return None if self.problems else Model(name=named, **values)

    # ---- name and path ------------------------------------------------------------------------------------

    def _is_demo(self, name: str | None, merged: Merged) -> bool:
        """Nobody named a path: without a model of one's own it is the embedded one."""
        path = merged.values.get("model_path")
        return path == DEMO or (path is None and name in {None, DEMO} and self._fall_back() is None)

    def _demo_rank(self, engine: Engine | None) -> Rank:
        givens = {key: Given(text, "the demo model", Layer.DEFAULT) for key, text in _DEMO_SETTINGS.items()}
        return RankReader(engine, self.engines).read(givens)

    def _fall_back(self) -> Given | None:
        found = [self.sources.variables[name] for name in FALL_BACKS if name in self.sources.variables]
        return found[0] if found else None

    def _path(self, key: Given | None, values: dict[str, Any], merged: Merged) -> str | None:
        path, fall_back = values.get("model_path"), self._fall_back()
        if path is None and fall_back is not None:
            found, problems = read_section(ModelSettings, {"model_path": fall_back})
            self.problems += problems
            path = values["model_path"] = found.get("model_path", DEMO)
            merged.givens["model_path"] = fall_back
        if path is not None and path.startswith(("http://", "https://")):
            self.problems.append(merged.givens["model_path"].problem(_no_address(path)))
            return None
        if path is not None and path != DEMO:
            return self.sources.local_path(path) or path
        if path is None and key is not None and _text(key) != DEMO:
            message = "has no model_path. Name a local directory or a Hugging Face repository."
            self.problems.append(key.problem(message, "E-CFG-MISSING"))
            return None
        if demo := self.sources.demo_path():
            return demo
        message = "is not part of this installation. Name a model: --model-path, ICHAT_MODEL_PATH or models: in YAML."
        self.problems.append(Problem("E-CFG-MISSING", "the demo model", message))
        return None

    def _name(self, given: Given | None, path: str | None, place: Given | None) -> str:
        """As given, else after the path."""
        if given is None:
            return self._derived_name(path, place) if path and path != DEMO else DEMO
        text = _text(given)
        if path is None and "/" in text:
            message = f'names the model; "{text}" looks like a path, and that is --model-path or ICHAT_MODEL_PATH.'
            self.problems.append(given.problem(message))
        if not _is_name(text):
            self.problems.append(given.problem(f'expected {NAME}, found "{text}".'))
        return text

    def _derived_name(self, path: str, place: Given | None) -> str:
        """After the path; it is a problem where no name can be made of it."""
        name = _name_of(path)
        if place is not None and not _is_name(name):
            message = f'"{path}" is neither a directory here nor a Hugging Face repository (ORG/NAME).'
            self.problems.append(place.problem(message))
        return name

    def _absolute(self, values: dict[str, Any]) -> dict[str, Any]:
        """Local paths made absolute: a worker runs elsewhere."""
        local = self.sources.local_path
        keys = [key for key in ("tokenizer_path", "chat_template") if key in values]
        found: dict[str, Any] = {key: local(values[key]) or values[key] for key in keys}
        if "lora_paths" in values:
            parts = [text.partition("=") for text in values["lora_paths"]]
            found["lora_paths"] = tuple(f"{name}={local(path) or path}" if path else name for name, _, path in parts)
        return found

    # ---- what does not go together ------------------------------------------------------------------------

    def _check(self, merged: Merged, values: dict[str, Any], name: str, engine: Engine | None) -> None:
        def refuse(key: str, message: str) -> None:
            given = merged.givens.get(key, Given("", f"models.{name}", Layer.FILE))
            self.problems.append(given.problem(message, "E-CFG-CONFLICT"))

        if values.get("lora_paths") and values.get("enable_lora") is False:
            refuse("enable_lora", "is false, but lora_paths names adapters. Remove one of them.")
        if any("=" not in text for text in values.get("lora_paths", ())):
            refuse("lora_paths", "each adapter is written name=path.")
        if rank := values.get("node_rank"):
            refuse("node_rank", f"is {rank}, and ichat serves the first machine of several only (0). {_OTHER_NODES}")
        if _publishes(values.get("kv_events_config")) and (count := values.get("instances", 1)) > 1:
            refuse("kv_events_config", f"is one endpoint, but instances is {count}, and only one of them can {_LISTEN}")
        if "dist_init_addr" in values and not values["dist_init_addr"].rpartition(":")[2].isdigit():
            refuse("dist_init_addr", f'expected host:port, found "{values["dist_init_addr"]}".')
        if engine:
            self._check_names(engine, values, name, refuse)
            self._check_choices(engine, merged, values)

    def _check_names(
        self, engine: Engine, values: dict[str, Any], name: str, refuse: Callable[[str, str], None]
    ) -> None:
        said = [("served_model_name", values.get("served_model_name", name))]
        said += [("aliases", alias) for alias in values.get("aliases", ())]
        for key, served in said if engine.name == "sglang" else ():
            if ":" in served:
                refuse(key, f'"{served}" has a colon, which marks an adapter for SGLang. Choose another name.')

    def _check_choices(self, engine: Engine, merged: Merged, values: dict[str, Any]) -> None:
        """What the engine's parser would refuse, as far as its table of flags tells."""
        for word in engine.words:
            value, given = values.get(word.setting), merged.givens.get(word.setting)
            if value is None or given is None:
                continue
            converted = word.convert(value) if word.convert else value
            try:
                if converted is not None:
                    engine.flag_of(word.setting).to_argv(list(converted) if isinstance(converted, tuple) else converted)
            except WrongValueError as error:
                self.problems.append(given.problem(f"{engine.title}: {error}."))


def _own(values: Mapping[str, Any], engine: Engine | None) -> dict[str, Any]:
    """What the model says in its engine's own words, by flag."""
    said = dict(values.get("engine_args", {}))
    for argument in engine.catalogue.split(values.get("extra_argv", ())) if engine else ():
        if argument.flag is not None:
            said[argument.flag.key] = argument.values[0] if argument.values else not argument.is_negated
    return said


def _text(given: Given) -> str:
    return given.raw.text if isinstance(given.raw, Scalar) else str(given.raw)


def _no_address(url: str) -> str:
    """What to name instead of a page of the hub."""
    owner, _, rest = url.partition("://")[2].partition("/")[2].partition("/")
    repository = rest.partition("/")[0].partition("?")[0]
    meant = f"; you probably mean {owner}/{repository}" if owner and repository else ""
    return f'"{url}" is an address, and a model of the hub is named as ORG/NAME{meant}.'


def _is_name(text: str) -> bool:
    try:
        Model(name=text, model_path="x")
    except ValueError:
        return False
    return True


def _name_of(path: str) -> str:
    """A hub repository is its own name; a directory gives its last part."""
    if not path.startswith(("/", ".", "~")):
        return path
    last = path.rstrip("/").rpartition("/")[2]
    name = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in last).lstrip("._-")
    return name or "model"


def choose_backend(said: str | None, layers: Sequence[Mapping[str, Given]]) -> str:
    """The backend, before anything can be read in its words; a wrong one is reported where values are checked."""
    if said is not None:
        return said
    for layer in reversed(layers):
        try:
            if "backend" in layer and (backend := read(kinds(ModelSettings)["backend"], layer["backend"].raw)):
                return str(backend)
        except WrongValueError:
            return ""
    return str(Model.model_fields["backend"].default)


def _publishes(kv_events: Mapping[str, Any] | None) -> bool:
    if not kv_events:
        return False
    return bool(kv_events.get("enable_kv_cache_events", True)) and kv_events.get("publisher", "zmq") != "null"
