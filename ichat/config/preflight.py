"""Whether a local model can be loaded at all, seen from its files alone: in a second, before an engine is started.

Only sizes, headers and small JSON files are read. A model of the hub is left to the engine: it knows what it needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ichat.config.resolve import Resolved
from ichat.config.schema import Model
from ichat.config.secrets import hide
from ichat.config.tls import check_tls
from ichat.config.weights import WeightsError, check_weights, is_lfs_pointer, read_table
from ichat.errors import ConfigError, ExitCode, Problem

#: Any of these is a tokenizer of its own.
TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer.model.v3",
    "tekken.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "*.tiktoken",
    "tiktoken.model",
)
CONFIGS = ("config.json", "params.json")  # params.json: Mistral's own form
_END_BYTES = 128  # of a tokenizer, at either end
WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf")


def preflight(resolved: Resolved) -> tuple[str, ...]:
    """Check what will be served: every model, and the certificate of the port.

    Raises ConfigError with all that is wrong (exit 66 missing, 65 damaged). Returns what a person should know although
    nothing is wrong.
    """
    problems = check_tls(resolved.settings.server, resolved.origins)
    notices: list[str] = []
    for model in resolved.settings.models:
        check = Check(model, resolved.origins.get(f"models.{model.name}.model_path", ""))
        check.run()
        problems += check.problems
        notices += check.notices
    if problems:
        raise ConfigError([replace(problem, message=hide(problem.message, resolved.hidden)) for problem in problems])
    return tuple(notices)


@dataclass
class Check:
    """The check of one model; ``place`` is where its path was given."""

    model: Model
    place: str = ""
    problems: list[Problem] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def run(self) -> None:
        if not self.model.model_path.startswith("/"):
            return
        path = Path(self.model.model_path)
        try:
            self._check(path)
        except PermissionError as error:
            what = f"{error.filename or path}: may not be read by this user. Change its owner or mode."
            self._problem("E-PERMISSION", what, ExitCode.PERMISSION)
        except OSError as error:
            self._problem("E-MODEL-DATA", f"{error.filename or path}: {error.strerror}.", ExitCode.DATA)

    def _check(self, path: Path) -> None:
        if not path.exists():
            advice = "Mount it, or name a repository of the hub as org/name."
            return self._missing(f"{path}: no such directory. {advice}")
        if path.is_file():
            if path.suffix != ".gguf":
                self._missing(f"{path}: is a file; a model is a directory (or one .gguf file).")
            return None
        if missing := list(self._lacks(path)):
            return self._missing(f"{path}: is not a model: {', '.join(missing)}.")
        config = self._json(path / "config.json")
        try:
            check_weights(path, is_needed=self._needs_weights())
        except WeightsError as error:
            self._damaged(str(error))
        if self._needs_tokenizer():
            self._check_tokenizer(path)
        self._check_chat_template(path, config)
        self._check_adapters()
        return None

    def _check_tokenizer(self, path: Path) -> None:
        """The file that an engine would take first; one of megabytes is not read, only its ends are."""
        file = next(found for pattern in TOKENIZERS for found in sorted(path.glob(pattern)))
        size = file.stat().st_size
        with file.open("rb") as opened:
            start = opened.read(_END_BYTES)
            opened.seek(max(0, size - _END_BYTES))
            end = opened.read()
        if is_lfs_pointer(start):
            self._damaged(f"{file}: is a git-LFS pointer of {size} bytes, not the file. Run `git lfs pull` there.")
        elif not size:
            self._damaged(f"{file}: has 0 bytes. Fetch it again.")
        elif file.suffix == ".json" and not (start.lstrip().startswith(b"{") and end.rstrip().endswith(b"}")):
            self._damaged(f"{file}: is not a whole JSON object; it has {size} bytes. Fetch it again.")

    def _lacks(self, path: Path) -> Iterator[str]:
        if not any(path.iterdir()):
            yield "the directory is empty"
            return
        if not _any(path, CONFIGS):
            yield "no config.json"
        if self._needs_tokenizer() and not _any(path, TOKENIZERS):
            yield "no tokenizer (tokenizer.json, tokenizer.model …)"
        if self._needs_weights() and not _any(path, (*WEIGHTS, "*.index.json")):
            yield "no weights (*.safetensors)"

    def _needs_tokenizer(self) -> bool:
        return not self.model.tokenizer_path and not self._is_set("skip-tokenizer-init")

    def _needs_weights(self) -> bool:
        return self.model.load_format in {None, "auto", "safetensors", "mistral"}

    def _is_set(self, key: str) -> bool:
        return bool(self.model.engine_args.get(key)) or f"--{key}" in self.model.extra_argv

    def _json(self, path: Path) -> dict[str, Any]:
        """The content of a JSON file of the model, empty when there is none; a damaged one is a problem."""
        if not path.exists():
            return {}
        content = path.read_bytes()
        if is_lfs_pointer(content[:128]):
            size = len(content)
            self._damaged(f"{path}: is a git-LFS pointer of {size} bytes, not the file. Run `git lfs pull` there.")
            return {}
        try:
            return read_table(content)
        except ValueError as error:
            self._damaged(f"{path}: is not a JSON object ({error}). Fetch it again.")
            return {}

    def _check_chat_template(self, path: Path, config: dict[str, Any]) -> None:
        if self.model.chat_template:
            if self.model.chat_template.startswith("/") and not Path(self.model.chat_template).exists():
                self._missing(f"chat_template {self.model.chat_template}: no such file.")
            return None
        architectures = config.get("architectures") or []
        if not isinstance(architectures, list):
            return self._damaged(f"{path / 'config.json'}: its architectures are no list. Fetch it again.")
        generates = any(w in str(name) for name in architectures for w in ("CausalLM", "ConditionalGeneration"))
        tokenizer = self._json(path / "tokenizer_config.json")
        names = ("chat_template.jinja", "chat_template.json", "chat_templates")
        if generates and "chat_template" not in tokenizer and not _any(path, names):
            self.notices.append(
                f"{self.model.name}: the model has no chat template, so /v1/chat/completions will refuse requests; "
                "name one with chat_template"
            )
        return None

    def _check_adapters(self) -> None:
        for text in self.model.lora_paths or ():
            path = text.partition("=")[2]
            if path.startswith("/") and not (Path(path) / "adapter_config.json").exists():
                self._missing(f"lora_paths {text}: there is no adapter_config.json in that directory.")

    def _damaged(self, message: str) -> None:
        self._problem("E-MODEL-DATA", message, ExitCode.DATA)

    def _missing(self, message: str) -> None:
        self._problem("E-MODEL-MISSING", message, ExitCode.NO_INPUT)

    def _problem(self, code: str, message: str, exit_code: ExitCode) -> None:
        self.problems.append(Problem(code, f"{self.place}:" if self.place else "", message, exit_code))


def _any(path: Path, patterns: tuple[str, ...]) -> bool:
    return any(next(iter(path.glob(pattern)), None) is not None for pattern in patterns)
