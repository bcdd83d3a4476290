"""What can be commanded of an engine: the one shape that both of them are put into, and how a command is refused."""

from __future__ import annotations

import abc
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints, ValidationError

from ichat.backends.finite_weights import tensor_with_nan
from ichat.config.schema import LogLevel, Schema
from ichat.config.weights import WeightsError, check_weights, read_table, shapes_of


class CommandError(Exception):
    """A command that was not obeyed; ``status`` and ``code`` are those of the HTTP answer."""

    status: ClassVar[int] = 502
    code: ClassVar[str] = "command_failed"


class NotSupportedError(CommandError):
    """This engine, machine or configuration cannot do it; the words say why, and the way out if there is one."""

    status, code = 501, "not_supported"


class WrongArgumentsError(CommandError):
    status, code = 400, "invalid_arguments"


class NotNowError(CommandError):
    """Not in the state that the engine is in."""

    status, code = 409, "not_now"


class RefusedError(CommandError):
    """The engine itself would not have it, and is as it was before."""

    status, code = 422, "refused"


class TookTooLongError(CommandError):
    status, code = 504, "control_timeout"


Mode = Literal["wait", "abort", "keep"]
#: What a sleeping engine has given up, and can take back one by one.
Tag = Literal["weights", "kv_cache"]
TAGS: frozenset[Tag] = frozenset({"weights", "kv_cache"})
AdapterName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=4096)]


class NoArguments(Schema):
    pass


class Sleep(Schema):
    level: Literal[1, 2] = Field(1, description="1: the weights stay in host memory, 2: they are read from disk again")


class WakeUp(Schema):
    tags: Annotated[tuple[Tag, ...], Field(min_length=1)] | None = Field(None, description="only these; default: all")


class Pause(Schema):
    mode: Mode = Field("wait", description="what becomes of requests in flight: they finish, are aborted, or are kept")


class UpdateWeights(Schema):
    path: Text = Field(description="a directory with the same model's weights")


class StartProfile(Schema):
    path: Text | None = Field(None, description="an existing directory for the traces")
    prefix: AdapterName | None = Field(None, description="of the traces' names")


class LoadLora(Schema):
    name: AdapterName = Field(description="requests ask for <model>:<name>")
    path: Text = Field(description="a directory with an adapter")


class UnloadLora(Schema):
    name: AdapterName


class SetLogLevel(Schema):
    level: LogLevel


ACTIONS: dict[str, type[Schema]] = {
    "sleep": Sleep,
    "wake_up": WakeUp,
    "pause": Pause,
    "resume": NoArguments,
    "update_weights": UpdateWeights,
    "flush_cache": NoArguments,
    "start_profile": StartProfile,
    "stop_profile": NoArguments,
    "load_lora": LoadLora,
    "unload_lora": UnloadLora,
    "log_level": SetLogLevel,
}


def read_arguments(action: str, arguments: dict[str, Any]) -> Schema:
    """WrongArgumentsError names all that is wrong, and what the action takes."""
    if action not in ACTIONS:
        raise WrongArgumentsError(f"{action}: no such command. There are: {', '.join(ACTIONS)}.")
    schema = ACTIONS[action]
    try:
        return schema.model_validate(arguments)
    except ValidationError as error:
        taken = ", ".join(schema.model_fields) or "nothing"
        wrong = "; ".join(_words(problem) for problem in error.errors(include_input=False, include_url=False))
        raise WrongArgumentsError(f"{action}: {wrong}. It takes: {taken}.") from None


def _words(problem: Any) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{place[:60]} is unknown"
    return f"{place} is needed" if problem["type"] == "missing" else f"{place}: {problem['msg']}"


class EngineControl(abc.ABC):
    """One engine's side of the commands. ``Control`` keeps the order in which they are called.

    A method raises NotSupportedError only before it has changed anything, and RefusedError when everything is as it
    was. Whatever else it raises means that nobody knows what state the engine is in.
    """

    def check_sleep(self, level: int) -> None:
        """NotSupportedError unless ``sleep(level)`` can work. Here is what an engine says that cannot at all."""
        raise NotSupportedError(f"sleep: level {level} is not possible on this engine")

    @abc.abstractmethod
    async def sleep(self, level: int) -> None:
        """Give up the device's memory. The engine is paused, and has no request."""

    @abc.abstractmethod
    async def wake_up(self, tags: frozenset[Tag], *, reload_from: str | None) -> None:
        """Take memory back; if ``reload_from`` is given, with the weights from there. The engine stays paused."""

    @abc.abstractmethod
    async def pause(self, mode: Mode) -> None:
        """Compute nothing more; returns when that is so. New requests wait for ``resume()``."""

    @abc.abstractmethod
    async def resume(self) -> None: ...

    @abc.abstractmethod
    async def update_weights(self, path: str) -> None:
        """Replace the weights. The engine is paused, and has no request."""

    @abc.abstractmethod
    async def flush_cache(self) -> None:
        """Forget every cached prefix. Requests in flight are computed again from their start, none is lost."""

    @abc.abstractmethod
    async def start_profile(self, path: str | None, prefix: str | None) -> str:
        """Where the traces will be."""

    @abc.abstractmethod
    async def stop_profile(self) -> None: ...

    @abc.abstractmethod
    async def load_lora(self, name: str, path: str) -> None: ...

    @abc.abstractmethod
    async def unload_lora(self, name: str) -> None: ...

    @abc.abstractmethod
    async def set_log_level(self, level: str) -> list[str]:
        """Which of the engine's processes obey it."""

    def max_model_len(self) -> int | None:
        """Longest prompt plus answer, in tokens, as the engine has it."""
        return None

    def adapters(self) -> list[str]:
        """Names that requests may ask for beside the model's own."""
        return []


# ---- what is wrong with a path is told before an engine is touched ---------------------------------------------


def check_new_weights(path: str, current: Path | None) -> None:
    """WrongArgumentsError unless ``path`` holds whole weights of the same model as the directory ``current``.

    NotSupportedError where it is not known what they are to be compared with (None).
    Neither engine can be left to find that out: by then half of them are replaced, and vLLM only logs what is missing.
    """
    directory = _directory("update_weights", path)
    if current is None:
        raise NotSupportedError(
            "update_weights: the files of the model that runs are not found on this machine, so that nothing tells"
            " whether these weights fit. Change model_path in the configuration and reload."
        )
    if not (directory / "config.json").is_file():
        raise WrongArgumentsError(f"update_weights: {path}: has no config.json, so it is no model.")
    if not any(directory.glob("*.safetensors")):
        raise WrongArgumentsError(f"update_weights: {path}: has no weights (*.safetensors).")
    try:
        check_weights(directory, is_needed=True)
        differences = [
            *_differences("its {}", _architecture(directory), _architecture(current)),
            *_differences("the shape of {}", shapes_of(directory), shapes_of(current)),
        ]
    except (WeightsError, ValueError, KeyError, OSError) as error:
        raise WrongArgumentsError(f"update_weights: {error}") from None
    if differences:
        raise WrongArgumentsError(
            f"update_weights: {path}: is another model, {differences[0]}."
            " Change model_path in the configuration and reload."
        )
    if (name := tensor_with_nan(directory)) is not None:
        raise WrongArgumentsError(
            f"update_weights: {path}: holds NaN (not a number) in {name}: every answer would be empty or noise."
            " Take weights from before the training went wrong."
        )


def _differences(words: str, new: dict[str, Any], old: dict[str, Any]) -> Iterator[str]:
    """None when nothing is known of the old: its weights may be in another form than safetensors."""
    for key in sorted(new.keys() | old.keys()) if old else ():
        if new.get(key) != old.get(key):
            yield f"{words.format(key)} is {new.get(key)} instead of {old.get(key)}"


#: Of a config.json: what makes weights fit into a running model.
_SHAPE = (
    "architectures", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "vocab_size", "tie_word_embeddings", "quantization_config",
)  # fmt: skip


def _architecture(directory: Path) -> dict[str, Any]:
    file = directory / "config.json"
    if not file.is_file():
        return {}
    config = read_table(file.read_bytes())
    return {key: config.get(key) for key in _SHAPE}


def check_adapter(path: str) -> None:
    directory = _directory("load_lora", path)
    file = directory / "adapter_config.json"
    if not file.is_file():
        raise WrongArgumentsError(f"load_lora: {path}: has no adapter_config.json, so it is no adapter.")
    try:
        read_table(file.read_bytes())
        check_weights(directory, is_needed=False)
    except (WeightsError, json.JSONDecodeError, ValueError, OSError) as error:
        raise WrongArgumentsError(f"load_lora: {file}: {error}") from None
    if not any(directory.glob("adapter_model.*")):
        raise WrongArgumentsError(f"load_lora: {path}: has no weights (adapter_model.safetensors).")


def check_trace_directory(path: str) -> None:
    _directory("start_profile", path)


def _directory(action: str, path: str) -> Path:
    directory = Path(path)
    if not directory.is_absolute():
        raise WrongArgumentsError(f"{action}: {path}: give the whole path, from / on, as the container sees it.")
    try:
        is_there = directory.is_dir()
        if is_there and not os.access(directory, os.R_OK | os.X_OK, effective_ids=True):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except (OSError, ValueError) as error:  # ValueError: a zero byte
        words = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise WrongArgumentsError(f"{action}: {path}: cannot be read ({words}).") from None
    if not is_there:
        raise WrongArgumentsError(f"{action}: {path}: no such directory in the container.")
    return directory
