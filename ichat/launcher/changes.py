"""What differs between the settings that hold and others, and what it takes to get there: a pure comparison."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import BaseModel, SecretStr

from ichat.config.schema import Model, Settings
from ichat.config.secrets import MASK, hide, is_secret_variable, mask, masked_argv

#: hot: takes effect at once. scale: instances come or go, the others stay. restart: each instance is replaced.
#: container: nothing but another start of ichat changes it.
Kind = Literal["add", "remove", "restart", "scale", "hot", "container"]

#: Settings of a model that no process of the engine has heard of.
_HOT_KEYS = frozenset(
    {
        "limit_concurrent",
        "limit_queued",
        "limit_body_bytes",
        "limit_n",
        "limit_max_tokens",
        "limit_schema_bytes",
        "start_s",
        "drain_s",
        "hold_s",
        "rollout",
    }
)
#: vLLM refuses a request that names a model otherwise than it was told; SGLang does not look.
_TOLD_THE_ENGINE = {"vllm": frozenset({"aliases"})}
_HOT_SETTINGS = (
    "timeouts",
    "restarts",
    "reload",
    "server.limits",
    "server.api_key",
    "server.api_keys",
    "server.api_key_files",
    "server.cors_origins",
)


@dataclass(frozen=True)
class Change:
    """``subject`` is `models.qwen` or a section; ``why`` names the keys with their old and new values, masked."""

    subject: str
    kind: Kind
    why: str

    @property
    def model(self) -> str:
        return self.subject.removeprefix("models.")


def compare(old: Settings, new: Settings, hidden: frozenset[str] = frozenset()) -> list[Change]:
    """Every change, in the order in which they are made: settings, what goes, what changes, what comes.

    ``hidden`` are texts that must not be shown (see ``Resolved``).
    """
    return [replace(change, why=hide(change.why, hidden)) for change in _compare(old, new)]


def _compare(old: Settings, new: Settings) -> list[Change]:
    before = {model.name: model for model in old.models}
    after = {model.name: model for model in new.models}
    removed = [Change(f"models.{name}", "remove", "not in the configuration") for name in before if name not in after]
    added = [Change(f"models.{name}", "add", "new in the configuration") for name in after if name not in before]
    changed = [
        Change(f"models.{name}", kind_of(before[name], model), _why(before[name], model))
        for name, model in after.items()
        if name in before and before[name] != model
    ]
    return [*_sections(old, new), *removed, *sorted(changed, key=lambda one: one.kind == "scale"), *added]


def kind_of(old: Model, new: Model) -> Kind:
    """What it takes to make the one of the other."""
    keys = set(_keys(old, new))
    hot = _HOT_KEYS | ({"aliases"} - _TOLD_THE_ENGINE.get(new.backend, frozenset()))
    if keys <= hot:
        return "hot"
    if keys <= hot | {"instances", "gpus"} and _keeps_gpus(old, new):
        return "scale"
    return "restart"


def renames(old: Model, new: Model) -> bool:
    """Whether old and new instances answer to different names, so that they cannot serve beside each other."""
    return old.served_names != new.served_names and kind_of(old, new) == "restart"


def _keeps_gpus(old: Model, new: Model) -> bool:
    """Whether the instances that stay keep theirs."""
    if isinstance(old.gpus, tuple) and isinstance(new.gpus, tuple):
        stay = min(len(old.gpus), len(new.gpus))
        return old.gpus[:stay] == new.gpus[:stay]
    return old.gpus == new.gpus


def _keys(old: BaseModel, new: BaseModel) -> list[str]:
    return [name for name in type(new).model_fields if getattr(old, name) != getattr(new, name)]


def _sections(old: Settings, new: Settings) -> Iterator[Change]:
    for path, before, after in _differences(old, new, ""):
        is_hot = any(path == hot or path.startswith(f"{hot}.") for hot in _HOT_SETTINGS)
        yield Change(path, "hot" if is_hot else "container", _arrow(path, before, after))


def _differences(old: BaseModel, new: BaseModel, prefix: str) -> Iterator[tuple[str, Any, Any]]:
    for name in _keys(old, new):
        before, after = getattr(old, name), getattr(new, name)
        if name == "models":
            continue
        if isinstance(after, BaseModel):
            yield from _differences(before, after, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", before, after


def _why(old: Model, new: Model) -> str:
    return "; ".join(_arrow(name, getattr(old, name), getattr(new, name)) for name in _keys(old, new))


def _arrow(name: str, before: Any, after: Any) -> str:
    """`context_length: 4096 → 8192`; of a mapping only the entries that differ."""
    if name == "extra_argv":
        return f"{name}: {' '.join(masked_argv(before))} → {' '.join(masked_argv(after))}"
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
        if any(isinstance(value, SecretStr) for value in (*before.values(), *after.values())):
            return f"{name}: {', '.join(keys)}"
        sides = [(key, _entry(name, key, before.get(key)), _entry(name, key, after.get(key))) for key in keys]
        return "; ".join(f"{name}.{key}: {one} → {other}" for key, one, other in sides)
    return f"{name.rpartition('.')[2]}: {_shown(name, before)} → {_shown(name, after)}"


def _entry(name: str, key: str, value: Any) -> str:
    return MASK if name == "env" and value is not None and is_secret_variable(key) else _shown(key, value)


def _shown(name: str, value: Any) -> str:
    masked = mask(name, value)
    return "unset" if masked is None else str(list(masked) if isinstance(masked, tuple) else masked)
