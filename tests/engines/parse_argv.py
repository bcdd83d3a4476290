"""Runs in an engine's environment: parses command lines with the engine's own parser, and lists its flags.

stdin: a JSON list of {"argv": […], "wants": [dest, …]}; stdout, last line: {"parsed": [{dest: value} or {"error": …}],
"flags": the text of the generated file}.
"""

import contextlib
import io
import json
import sys
from typing import Any


def vllm_parse(argv: list[str]) -> Any:
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    from ichat.backends import vllm_compat

    command_line = vllm_compat.command_line()
    args = command_line.make_parser(FlexibleArgumentParser()).parse_args(argv)
    command_line.validate(args)
    return args


def sglang_parse(argv: list[str]) -> Any:
    from sglang.srt.server_args import prepare_server_args

    return prepare_server_args(argv)


def main() -> None:
    from importlib.util import find_spec

    parse = vllm_parse if find_spec("vllm") else sglang_parse
    parsed = []
    for row in json.load(sys.stdin):
        errors = io.StringIO()
        try:
            with contextlib.redirect_stderr(errors):
                args = parse(row["argv"])
            parsed.append({dest: getattr(args, dest, "<absent>") for dest in row["wants"]})
        except (SystemExit, Exception) as error:  # noqa: BLE001  an engine's parser may end in any way
            parsed.append({"error": f"{error!r} {errors.getvalue()[-300:]}"})
    from ichat.backends.flags.generate import generate

    print(json.dumps({"parsed": parsed, "flags": generate()[1]}, default=vars))


main()
