"""Runs a function for one case after the other, each in a fork of a process that has imported the engine once."""

import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

_ANSWERS = 99  # a descriptor that nobody else takes


def request() -> dict[str, Any]:
    """What the test asks for. What the engines print to standard output from now on goes to standard error."""
    asked: dict[str, Any] = json.load(sys.stdin)
    sys.stdout.flush()
    os.dup2(1, _ANSWERS)
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
            told = json.loads(answers.read() or b"null")
        _, status = os.waitpid(pid, 0)
        told = told or {"error": f"the process ended with status {status}"}
        answer({"case": name, **told})
    return 0


def answer(told: dict[str, object]) -> None:
    os.write(_ANSWERS, json.dumps(told, default=str).encode() + b"\n")


def _answer(function: Callable[[list[str]], dict[str, object]], argv: list[str]) -> dict[str, object]:
    try:
        return function(argv)
    except BaseException:  # noqa: BLE001  any failure is an answer
        return {"error": traceback.format_exc()[-6000:]}
