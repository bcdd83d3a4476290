"""Imports every module of an engine on a card that is not there, and tells which fail and how.

Reads {"card": [9, 0], "package": "vllm", "leave_out": [regular expressions]} from standard input.
"""

import importlib
import importlib.util
import os
import pathlib
import re
import sys
import traceback

from tests.cuda.inside import fake_gpu, one_by_one


def modules_of(package: str, leave_out: list[str]) -> list[str]:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    root = pathlib.Path(spec.origin).parent
    names = []
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if all(part.isidentifier() for part in parts) and not any(re.search(word, name) for word in leave_out):
            names.append(name)
    return names


def sweep(package: str, leave_out: list[str]) -> dict[str, object]:
    failures, missing, count = {}, {}, 0
    for name in modules_of(package, leave_out):
        count += 1
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            missing.setdefault((error.name or str(error)).partition(".")[0], []).append(name)
        except BaseException as error:  # noqa: BLE001  any failure is an answer
            failures[name] = f"{type(error).__name__}: {error} … {traceback.format_exc()[-1500:]}"
    return {"imported": count, "missing": missing, "failures": failures}


if __name__ == "__main__":
    request = one_by_one.request()
    fake_gpu.install(tuple(request["card"]))
    # Modules that would take an address, a lock or our arguments for theirs.
    sys.argv = ["sweep"]
    one_by_one.answer({"case": "sweep", **sweep(request["package"], request["leave_out"])})
    os._exit(0)
