"""What ``ichat config`` prints: every setting that holds, where it comes from, and nothing secret."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from ichat.config.resolve import Resolved
from ichat.config.schema import Model, Settings
from ichat.config.secrets import MASK, hide, is_secret_variable, mask, masked_argv


def render_config(resolved: Resolved) -> str:
    """A page of valid YAML, each value with its origin. Of a model only what somebody set is shown."""
    settings, page = resolved.settings, _Page(resolved.origins, resolved.hidden)
    lines: list[str] = []
    for name in type(settings).model_fields:
        if name != "models":
            lines += [f"{name}:", *page.section(getattr(settings, name), (name,), depth=1)]
    lines.append("models:")
    for model in settings.models:
        lines += [f"  {model.name}:", *page.model(model)]
    lines += [f"# {notice}" for notice in resolved.notices]
    return "\n".join(_aligned(lines)) + "\n"


def render_settings(settings: Settings, hidden: frozenset[str]) -> dict[str, Any]:
    """The settings as JSON has them, without secrets; of a model only what is set. ``hidden`` as in Resolved."""
    sections = {name: getattr(settings, name).model_dump() for name in type(settings).model_fields if name != "models"}
    models = {model.name: _plain(model) for model in settings.models}
    shown: dict[str, Any] = hide(mask("", sections | {"models": models}), hidden)
    return shown


def _plain(model: Model) -> dict[str, Any]:
    found = model.model_dump(exclude_defaults=True, exclude={"name"})
    if "extra_argv" in found:
        found["extra_argv"] = masked_argv(found["extra_argv"])
    if "env" in found:
        found["env"] = {key: MASK if is_secret_variable(key) else value for key, value in found["env"].items()}
    return found


@dataclass(frozen=True)
class _Page:
    origins: Mapping[str, str]
    hidden: frozenset[str]

    def section(self, section: BaseModel, path: tuple[str, ...], depth: int) -> Iterator[str]:
        for name in type(section).model_fields:
            value, full = getattr(section, name), ".".join((*path, name))
            if isinstance(value, BaseModel):
                yield f"{'  ' * depth}{name}:"
                yield from self.section(value, (*path, name), depth + 1)
            elif isinstance(value, dict) and value:
                yield f"{'  ' * depth}{name}:"
                yield from self._entries(value, full, depth + 1)
            else:
                yield self._line(name, value, self.origins.get(full), depth)

    def model(self, model: Model) -> Iterator[str]:
        prefix = f"models.{model.name}"
        for name, info in Model.model_fields.items():
            value, origin = getattr(model, name), self.origins.get(f"{prefix}.{name}")
            if name == "name" or (value == info.get_default() and origin is None and name != "backend"):
                continue
            if name in {"engine_args", "vllm_args", "sglang_args", "env"}:
                yield f"    {name}:"
                yield from self._entries(value, f"{prefix}.{name}", depth=3)
            elif name == "extra_argv":
                found = [place for key, place in self.origins.items() if key.startswith(f"{prefix}.{name}")]
                yield self._line(name, masked_argv(value), ", ".join(dict.fromkeys(found)), 2)
            else:
                yield self._line(name, value, origin, 2)

    def _entries(self, values: dict[str, Any], path: str, depth: int) -> Iterator[str]:
        for key, entry in values.items():
            shown = MASK if path.endswith(".env") and is_secret_variable(key) else entry
            yield self._line(key, shown, self.origins.get(f"{path}.{key}", self.origins.get(path)), depth)

    def _line(self, name: str, value: Any, origin: str | None, depth: int) -> str:
        import yaml

        shown = hide(mask(name, value), self.hidden)
        shown = list(shown) if isinstance(shown, tuple) else shown
        text = yaml.safe_dump(shown, default_flow_style=True, width=10**6, allow_unicode=True)
        text = text.removesuffix("\n").removesuffix("...").strip()
        return f"{'  ' * depth}{name}: {text}\t# {origin or 'default'}"


def _aligned(lines: list[str]) -> list[str]:
    parts = [line.partition("\t") for line in lines]
    width = min(max((len(head) for head, tab, _ in parts if tab), default=0), 60)
    return [f"{head:<{width}}  {tail}" if tab else head for head, tab, tail in parts]
