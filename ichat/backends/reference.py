"""Write what can be derived from the schema: ``python -m ichat.backends.reference`` in a checkout.

``configs/configs.yaml`` (every key, explained), ``configs/configs.schema.json`` (for editors), the tables of
``docs/configuration.md`` and ``docs/docker.md``, and ``deploy/compose/variables.env``. A test compares them with what
stands in the repository.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from ichat.backends.engines import load_engines
from ichat.config.kinds import HIDDEN_CHOICES, is_section, kinds
from ichat.config.names import COMPOUND, sections, variables, words
from ichat.config.schema import ModelSettings, Unified
from ichat.config.sources import FOREIGN, SECRETS, UNTESTED_ENGINE
from ichat.config.variables import OTHER

ROOT = Path(__file__).parents[2]
SCHEMA, DEFAULTS = "configs/configs.schema.json", "configs/configs.yaml"
VARIABLES = "deploy/compose/variables.env"
#: With tables between their marks.
PAGES = ("docs/configuration.md", "docs/docker.md")

_HEAD = """\
# yaml-language-server: $schema=configs.schema.json
#
# The configuration of ichat. Every setting stands here with its default, switched off: remove the "#" directly before
# a setting to change it. What may be left out may be all of it. The same settings as environment variables and as
# words of the command line, which both go before this file: docs/configuration.md. `ichat config` prints what holds.
"""

_MODELS = """\
# The models, by name. Without any, ichat serves what the command line or the environment names, else the demo model.
# A model may have every key of `defaults`.
models:
  #qwen:
    #backend: vllm
    #model_path: Qwen/Qwen2.5-7B-Instruct
    #context_length: 8192
    #engine_args: {enforce-eager: true}
"""


def render() -> dict[str, str]:
    """Every generated file by its path in the repository; the prose of a page is taken from the file itself."""
    pages = {page: with_tables((ROOT / page).read_text("utf-8")) for page in PAGES}
    return {SCHEMA: json_schema(), DEFAULTS: default_file(), VARIABLES: variable_list()} | pages


# ---- the variables that Compose hands on ----------------------------------------------------------------------

_LIST_HEAD = """\
# Generated. Every variable that ichat reads and that has a fixed name. A name without a value stands for the value in
# your shell, if it has one there: for docker-compose.yml, and for docker run --env-file deploy/compose/variables.env.
# Not here: ICHAT_MODELS__<model>__<key>, which have no fixed names, and what the image sets itself (docs/docker.md).
"""
#: docker-compose 1.29 takes a listed variable away from the container when the shell lacks it.
_SET_BY_THE_IMAGE = ("ICHAT_DEFAULTS__ACCELERATOR", "ICHAT_DEFAULTS__BACKEND")
#: No settings of ichat's: libraries of the engines read them.
_READ_BY_LIBRARIES = ("HF_ENDPOINT", "HF_HUB_OFFLINE")


def variable_list() -> str:
    names = {
        *variables(),
        *OTHER,
        UNTESTED_ENGINE,
        *FOREIGN,
        *(f"{name}_FILE" for name in SECRETS),
        *_READ_BY_LIBRARIES,
    }
    return _LIST_HEAD + "".join(f"{name}\n" for name in sorted(names - {*_SET_BY_THE_IMAGE}))


# ---- configs.yaml ---------------------------------------------------------------------------------------------


def default_file() -> str:
    parts = [_HEAD]
    for path, section in sections().items():
        if len(path) == 1:
            parts += [f"\n# {section.__doc__}\n{path[0]}:\n", "".join(_keys(section, depth=1))]
    parts += ["\n# What holds for every model that does not say otherwise.\ndefaults:\n"]
    parts += ["".join(_keys(ModelSettings, depth=1)), "\n", _MODELS]
    return "".join(parts)


def _keys(section: type[BaseModel], depth: int) -> Iterator[str]:
    indent = "  " * depth
    for name, info in section.model_fields.items():
        if is_section(info):
            inner: Any = info.annotation
            yield f"\n{indent}# {inner.__doc__}\n{indent}{name}:\n"
            yield from _keys(inner, depth + 1)
        else:
            yield f"{indent}# {info.description}\n{indent}#{name}: {_literal(info.get_default())}\n"


def _literal(value: Any) -> str:
    """A default as YAML writes it."""
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False).replace('"', "")


# ---- the schema -----------------------------------------------------------------------------------------------


def json_schema() -> str:
    """JSON schema of the whole file. Only an aid for editors: the resolver is stricter."""
    fixed = {path[0]: section for path, section in sections().items() if len(path) == 1}
    wanted: list[type[BaseModel]] = [*fixed.values(), ModelSettings]
    found = models_json_schema([(section, "validation") for section in wanted])[1]["$defs"]
    for section in found.values():
        _simplify(section)
    found["ModelSettings"]["properties"]["context_length"]["anyOf"].insert(
        1, {"type": "string", "pattern": "^[0-9]+(k|K|Ki)$"}
    )
    found["Variable"] = {"type": "string", "pattern": r"\$\{", "description": "${NAME} or ${NAME:-default}"}
    model = {"$ref": "#/$defs/ModelSettings"}
    properties: dict[str, Any] = {name: {"$ref": f"#/$defs/{section.__name__}"} for name, section in fixed.items()}
    properties |= {"defaults": model, "models": {"type": ["object", "null"], "additionalProperties": model}}
    top = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The configuration of ichat",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "$defs": found,
    }
    return json.dumps(top, indent=2, ensure_ascii=False) + "\n"


def _simplify(section: dict[str, Any]) -> None:
    """Without generated titles, without what is only for tests; an empty section is allowed."""
    section.pop("title", None)
    section["type"] = ["object", "null"]
    for name, field in section["properties"].items():
        field.pop("title", None)
        for option in (field, *field.get("anyOf", ())):
            if "enum" in option:
                option["enum"] = [choice for choice in option["enum"] if choice not in HIDDEN_CHOICES]
        if "$ref" not in field:
            section["properties"][name] = _or_variable(field)


_VARIABLE = {"$ref": "#/$defs/Variable"}


def _or_variable(field: dict[str, Any]) -> dict[str, Any]:
    """Every value may come from the environment; where any text may stand, that is text already."""
    about = {key: field[key] for key in ("default", "description") if key in field}
    options = list(_options({key: value for key, value in field.items() if key not in about}))
    if _VARIABLE in options:
        options = [*(option for option in options if option != _VARIABLE), _VARIABLE]
    return (options[0] if len(options) == 1 else {"anyOf": options}) | about


def _options(field: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "anyOf" in field:
        for option in field["anyOf"]:
            yield from _options(option)
    elif "items" in field:
        yield field | {"items": _or_variable(field["items"])}
    elif isinstance(field.get("additionalProperties"), dict):
        yield field | {"additionalProperties": _or_variable(field["additionalProperties"])}
    else:
        yield field
        if field["type"] in {"integer", "number", "boolean"} or {"pattern", "enum"} & field.keys():
            yield _VARIABLE


# ---- the tables of the page -----------------------------------------------------------------------------------


def with_tables(page: str) -> str:
    """The page with every part between ``<!-- table: x -->`` and ``<!-- end -->`` written anew."""
    tables = {
        "settings": _settings_table,
        "models": _models_table,
        "unified": _unified_table,
        "reserved": _reserved_table,
        "equivalents": _equivalents_table,
        "variables": _variables_table,
    }

    def fill(match: re.Match[str]) -> str:
        return f"{match[1]}\n\n" + "\n".join(tables[match[2]]()) + "\n\n<!-- end -->"

    return re.sub(r"(<!-- table: (\w+) -->).*?<!-- end -->", fill, page, flags=re.DOTALL)


def _settings_table() -> Iterator[str]:
    yield from _row("setting", "default", "meaning", "variables", "command line")
    yield from _row(*["---"] * 5)
    for path, section in sections().items():
        for name, kind in kinds(section).items():
            info = section.model_fields[name]
            full = (*path, name)
            named = [f"`{variable}`" for variable, setting in variables().items() if setting == full]
            said = [f"`{word}`" for word, setting in words().items() if setting == full]
            default = f"`{_literal(info.get_default())}`"
            meaning = f"{info.description} ({kind.expected})"
            yield from _row(f"`{'.'.join(full)}`", default, meaning, " ".join(named), " ".join(said))


def _models_table() -> Iterator[str]:
    yield from _row("key", "value", "meaning", "variable", "command line")
    yield from _row(*["---"] * 5)
    for name, kind in kinds(ModelSettings).items():
        info = ModelSettings.model_fields[name]
        is_short = name not in COMPOUND
        word = f"`--{name.replace('_', '-')}`" if is_short else ""
        if kind.word == "bool":
            word += f" `--no-{name.replace('_', '-')}`"
        variable = f"`ICHAT_{name.upper()}`" if is_short else ""
        default = info.get_default()
        value = kind.expected + (f"; default `{_literal(default)}`" if default is not None else "")
        yield from _row(f"`{name}`", value, str(info.description), variable, word)


def _unified_table() -> Iterator[str]:
    engines = load_engines()
    yield from _row("unified", *(engine.version for engine in engines.values()), "what differs")
    yield from _row(*["---"] * 4)
    for name in Unified.model_fields:
        said = [engine.by_setting[name] for engine in engines.values()]
        notes = [f"{e.title}: {word.note}." for e, word in zip(engines.values(), said, strict=True) if word.note]
        shown = [f"`{word.flag}`" + ("" if word.is_same else " *") for word in said]
        yield from _row(f"`--{name.replace('_', '-')}`", *shown, " ".join(notes))


def _reserved_table() -> Iterator[str]:
    yield from _row("engine", "flag", "why")
    yield from _row(*["---"] * 3)
    for engine in load_engines().values():
        for flag, why in engine.reserved.items():
            yield from _row(engine.title, f"`{flag}`", why)


def _equivalents_table() -> Iterator[str]:
    yield from _row("flag", "of", "the other engine has")
    yield from _row(*["---"] * 3)
    for engine in load_engines().values():
        for flag, other in engine.equivalents.items():
            yield from _row(f"`{flag}`", engine.title, re.sub(r"(--[a-z0-9-]+)", r"`\1`", other))


#: Variables that are no settings: (name, meaning).
_OTHER_VARIABLES = (
    ("ICHAT_CONFIG", "the YAML file; default `/etc/ichat/configs.yaml`, if it exists"),
    ("ICHAT_MODELS", "those models of the file that this container serves, separated by commas"),
    ("ICHAT_VLLM_ARGS", "flags of vLLM, as on its command line"),
    ("ICHAT_SGLANG_ARGS", "flags of SGLang, as on its command line"),
    ("ICHAT_DEBUG", "1: tracebacks with error lines"),
    ("ICHAT_ALLOW_UNTESTED_ENGINE", "1: start an engine of a version that ichat is not tested with (engines.md)"),
    ("HF_TOKEN", "the token for gated and private models of the hub"),
    ("MODEL_ID, HF_MODEL_ID", "the model's path when nothing else names one"),
)


def _variables_table() -> Iterator[str]:
    """One row each, by its shortest name; timeouts and limits, which are many, only where they have a short one."""
    yield from _row("variable", "default", "meaning")
    yield from _row(*["---"] * 3)
    for name, meaning in _OTHER_VARIABLES:
        yield from _row(", ".join(f"`{one}`" for one in name.split(", ")), "", meaning)
    shown: dict[tuple[str, ...], tuple[str, str, str]] = {}
    for variable, path in sorted(variables().items(), key=lambda item: len(item[0])):
        owner = ModelSettings if path[0] == "model" else sections().get(path[:-1])
        info = owner.model_fields.get(path[-1]) if owner else None
        if info is None or path in shown or (path[0] != "model" and "__" in variable and path[0] != "restarts"):
            continue
        default = info.get_default()
        shown[path] = f"`{variable}`", "" if default is None else f"`{_literal(default)}`", str(info.description)
    for cells in sorted(shown.values()):
        yield from _row(*cells)


def _row(*cells: str) -> Iterator[str]:
    yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    for name, text in render().items():
        (ROOT / name).write_text(text, encoding="utf-8")
