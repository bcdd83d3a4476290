"""Runs in an engine's environment: the fields of each route's body, by the engine's own classes, and who looks at them.

python request_fields.py ARGV_JSON PATHS_JSON OUTPUT
"""

from __future__ import annotations

import dataclasses
import enum
import json
import os
import sys
import types
import typing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

#: Types whose values cannot be an index, a size or a count inside an engine.
HARMLESS = ("bool", "str", "float", "NoneType", "Literal", "enum")


def fields_of(kind: Any) -> dict[str, Any]:
    """Names and annotations of a pydantic model, a dataclass or a msgspec struct; nothing for other types."""
    if hasattr(kind, "model_fields"):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    if dataclasses.is_dataclass(kind) and not hasattr(kind, "__struct_fields__"):
        return typing.get_type_hints(kind, include_extras=True)
    if hasattr(kind, "__struct_fields__"):
        return typing.get_type_hints(kind, include_extras=True)
    return {}


def leaves(annotation: Any) -> set[str]:
    """What a value of this type is made of: names of types, "model" for a class with fields of its own."""
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return {"Literal"}
    if origin is typing.Annotated:
        return leaves(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return set().union(*map(leaves, typing.get_args(annotation)))
    if origin in (list, set, tuple, frozenset):
        return {"list"} | set().union(*(leaves(one) for one in typing.get_args(annotation) if one is not ...))
    if origin is not None:
        return {"dict" if origin is dict else str(origin)}
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return {"enum"}
    if fields_of(annotation):
        return {"model"}
    return {getattr(annotation, "__name__", str(annotation))}


def bodies(annotation: Any) -> list[Any]:
    """The classes of a body, of which there may be several."""
    if typing.get_origin(annotation) is typing.Annotated:
        return bodies(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [kind for one in typing.get_args(annotation) for kind in bodies(one)]
    return [annotation] if fields_of(annotation) else []


def vllm(argv: list[str]) -> tuple[Any, Any, dict[str, Any], list[Any]]:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.app import build_app
    from vllm.sampling_params import SamplingParams
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    from ichat.backends import vllm_compat, vllm_requests

    args = vllm_compat.command_line().make_parser(FlexibleArgumentParser()).parse_args(argv)
    config = AsyncEngineArgs.from_cli_args(args).create_engine_config()
    tasks = ("generate", "embed", "classify", "score", "token_embed")
    del SamplingParams  # the class behind `sampling_params`: most of its fields are not for a client
    return build_app(args, tasks, config.model_config), vllm_requests.build_rules(), vllm_requests.LEFT_TO_VLLM, []


def sglang(argv: list[str]) -> tuple[Any, Any, dict[str, Any], list[Any]]:
    from sglang.srt.entrypoints.http_server import app
    from sglang.srt.sampling.sampling_params import SamplingParams

    from ichat.backends import sglang_requests

    del argv
    return app, sglang_requests.build_rules(object()), sglang_requests.LEFT_TO_SGLANG, [SamplingParams]


def main() -> None:
    is_vllm = find_spec("vllm") is not None
    app, rules, left, structs = (vllm if is_vllm else sglang)(json.loads(sys.argv[1]))
    paths = set(json.loads(sys.argv[2]))
    found: dict[str, dict[str, list[str]]] = {}
    for route in app.routes:
        body = getattr(route, "body_field", None)
        if (
            getattr(route, "path", "") not in paths
            or "POST" not in (getattr(route, "methods", None) or ())
            or body is None
        ):
            continue
        for kind in bodies(body.field_info.annotation):
            for name, annotation in fields_of(kind).items():
                found.setdefault(route.path, {}).setdefault(name, []).extend(sorted(leaves(annotation)))
    for struct in structs:
        found["sampling_params"] = {name: sorted(leaves(one)) for name, one in fields_of(struct).items()}
    unseen = sorted(
        f"{path}: {name} ({', '.join(sorted(set(kinds)))})"
        for path, fields in found.items()
        for name, kinds in fields.items()
        if not set(kinds) <= {*HARMLESS, "list"} and name not in rules and name not in left
    )
    Path(sys.argv[3]).write_text(
        json.dumps({"fields": found, "unseen": unseen, "rules": sorted(rules), "left": sorted(left)})
    )
    os._exit(0)


main()
