"""What ``ichat config`` prints: every setting that holds, where it comes from, and nothing secret."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from ichat.config.resolve import Resolved
from ichat.config.schema import Model
from ichat.config.secrets import mask, masked_argv


def render_config(resolved: Resolved) -> str:
    """A page of valid YAML, each value with its origin. Of a model only what somebody set is shown."""
    settings, origins = resolved.settings, resolved.origins
    lines: list[str] = []
    for name in type(settings).model_fields:
        if name != "models":
            lines += [f"{name}:", *_section(getattr(settings, name), (name,), origins, depth=1)]
    lines.append("models:")
    for model in settings.models:
        lines += [f"  {model.name}:", *_model(model, origins)]
    lines += [f"# {notice}" for notice in resolved.notices]
    return "\n".join(_aligned(lines)) + "\n"


def _section(section: BaseModel, path: tuple[str, ...], origins: Any, depth: int) -> Iterator[str]:
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield f"{'  ' * depth}{name}:"
            yield from _section(value, (*path, name), origins, depth + 1)
        elif isinstance(value, dict) and value:
            yield f"{'  ' * depth}{name}:"
            yield from _entries(value, ".".join((*path, name)), origins, depth + 1)
        else:
            yield _line(name, value, origins.get(".".join((*path, name))), depth)


def _model(model: Model, origins: Any) -> Iterator[str]:
    prefix = f"models.{model.name}"
    for name, info in Model.model_fields.items():
        value = getattr(model, name)
        if name == "name" or (value == info.get_default() and f"{prefix}.{name}" not in origins and name != "backend"):
            continue
        if name in {"engine_args", "vllm_args", "sglang_args", "env"}:
            yield f"    {name}:"
            yield from _entries(value, f"{prefix}.{name}", origins, depth=3)
        elif name == "extra_argv":
            found = [place for key, place in origins.items() if key.startswith(f"{prefix}.{name}")]
            yield _line(name, masked_argv(value), ", ".join(dict.fromkeys(found)), 2)
        else:
            yield _line(name, value, origins.get(f"{prefix}.{name}"), 2)


def _entries(values: dict[str, Any], path: str, origins: Any, depth: int) -> Iterator[str]:
    for key, entry in values.items():
        yield _line(key, entry, origins.get(f"{path}.{key}", origins.get(path)), depth)


def _line(name: str, value: Any, origin: str | None, depth: int) -> str:
    import yaml

    if isinstance(value, tuple):
        value = list(value)
    text = yaml.safe_dump(mask(name, value), default_flow_style=True, width=10**6, allow_unicode=True)
    return f"{'  ' * depth}{name}: {text.removesuffix(chr(10)).removesuffix('...').strip()}\t# {origin or 'default'}"


def _aligned(lines: list[str]) -> list[str]:
    parts = [line.partition("\t") for line in lines]
    width = min(max((len(head) for head, tab, _ in parts if tab), default=0), 60)
    return [f"{head:<{width}}  {tail}" if tab else head for head, tab, tail in parts]
