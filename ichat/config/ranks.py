"""All that was said of one model, sorted by rank: defaults, its own section, the environment, the command line."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ichat.config import document
from ichat.config.engine import Engine
from ichat.config.engine_words import EngineWords, Reader
from ichat.config.flags import Argument, WrongValueError
from ichat.config.kinds import kinds
from ichat.config.merge import Rank
from ichat.config.names import COMPOUND
from ichat.config.schema import ModelSettings
from ichat.config.values import Given, Layer, plain, read
from ichat.errors import Problem


@dataclass(frozen=True)
class RankReader:
    """Reads the engine's words in the settings of one rank of a model whose backend is ``engine``.

    ``engine`` None: a backend without a command line of its own (the scripted one), whose words are not checked.
    """

    engine: Engine | None
    engines: Mapping[str, Engine]

    def read(self, givens: Mapping[str, Given]) -> Rank:
        """The settings of one rank; mappings and words of the engine are taken out of them and checked."""
        if self.engine is None:
            return Rank(dict(givens))
        words = EngineWords()
        others: dict[str, tuple[dict[str, Any], Given]] = {}
        for name in ("engine_args", "vllm_args", "sglang_args"):
            if name not in givens:
                continue
            engine = self.engine if name == "engine_args" else self.engines[name.removesuffix("_args")]
            found = self._mapping(engine, givens[name])
            if engine is self.engine:
                words.absorb(found)
            else:
                words.problems += found.problems
                others[name] = (_as_written(found, engine), givens[name])
        if "extra_argv" in givens:
            words.absorb(self._list(self.engine, givens["extra_argv"]))
        settings = {k: v for k, v in givens.items() if k not in COMPOUND or k == "env"}
        return Rank(settings, words, others)

    def read_text(self, given: Given) -> EngineWords:
        """Words of the engine in one variable, quoted as for a shell."""
        try:
            tokens = shlex.split(str(given.raw))
        except ValueError as error:
            return EngineWords(problems=[given.problem(f"cannot be cut into words: {error}.")])
        return self.read_tokens(tokens, given)

    def read_tokens(self, tokens: Sequence[str], given: Given) -> EngineWords:
        assert self.engine is not None
        return self._reader(self.engine).read_arguments(list(self.engine.catalogue.split(tokens)), lambda _a: given)

    def read_arguments(self, arguments: Sequence[Argument]) -> EngineWords:
        """The engine's words on the command line, each at its own place."""
        assert self.engine is not None
        return self._reader(self.engine).read_arguments(arguments, on_command_line)

    def _reader(self, engine: Engine) -> Reader:
        return Reader(engine, [other for other in self.engines.values() if other is not engine])

    def _mapping(self, engine: Engine, given: Given) -> EngineWords:
        args, places, problems = _entries(given)
        found = self._reader(engine).read_mapping(args, places.__getitem__)
        found.problems = [*problems, *found.problems]
        return found

    def _list(self, engine: Engine, given: Given) -> EngineWords:
        try:
            tokens = read(kinds(ModelSettings)["extra_argv"], given.raw)
        except WrongValueError as error:
            return EngineWords(problems=[given.problem(str(error))])
        wrong = next((token for token in tokens if not isinstance(token, str)), None)
        if wrong is not None:
            return EngineWords(problems=[given.problem(f"expected a list of texts, found {wrong!r} in it; quote it.")])
        return RankReader(engine, self.engines).read_tokens(tokens, given)


def on_command_line(argument: Argument) -> Given:
    return Given("", argument.word if argument.word.startswith("-") else "command line", Layer.COMMAND_LINE)


def _entries(given: Given) -> tuple[dict[str, Any], dict[str, Given], list[Problem]]:
    """The entries of a mapping by key, the place of each, and what is wrong with their form."""
    args: dict[str, Any] = {}
    places: dict[str, Given] = {}
    problems: list[Problem] = []
    if isinstance(given.raw, document.Mapping):
        for key, node in given.raw.items:
            places[key.text] = given.inner(key.text, node)
            try:
                args[key.text] = plain(node, key.text)
            except WrongValueError as error:
                problems.append(places[key.text].problem(str(error)))
                args[key.text] = None  # the key is still looked up: it may be wrong as well
    else:
        try:
            args = read(kinds(ModelSettings)["engine_args"], given.raw)
        except WrongValueError as error:
            problems.append(given.problem(str(error)))
        places = {key: given.inner(key) for key in args}
    return args, places, problems


def _as_written(words: EngineWords, engine: Engine) -> dict[str, Any]:
    """What a mapping says, unified arguments among it back in the engine's words."""
    said = {engine.flag_of(name).key: given.raw for name, given in words.settings}
    return said | words.args
