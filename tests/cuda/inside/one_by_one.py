"""Runs a function for one case after the other, each in a fork of a process that has imported the engine once."""

import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any


def request() -> dict[str, Any]:
    """What the test asks for. What the engines print to standard output from now on goes to standard error."""
    asked: dict[str, Any] = json.load(sys.stdin)
    sys.stdout.flush()
    os.dup2(os.dup(1), 9)
    os.dup2(2, 1)
    return asked


def serve(function: Callable[[list[str]], dict[str, object]], cases: dict[str, list[str]]) -> int:
    for name, argv in cases.items():
        reader, writer = os.pipe()
        if (pid := os.fork()) == 0:
            os.write(writer, json.dumps(_answer(function, argv), default=str).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as answers:
            answer = json.loads(answers.read() or b"null")
        _, status = os.waitpid(pid, 0)
        answer = answer or {"error": f"the process ended with status {status}"}
        os.write(9, json.dumps({"case": name, **answer}).encode() + b"\n")
    return 0


def _answer(function: Callable[[list[str]], dict[str, object]], argv: list[str]) -> dict[str, object]:
    try:
        return function(argv)
    except BaseException:
        return {"error": traceback.format_exc()[-6000:]}
