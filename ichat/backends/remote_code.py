"""Python code that comes with a model (trust_remote_code): which packages it imports that its engine does not have.

Seen from the files of a local model, before an engine is started: nothing is imported. A model of the hub has its files
only when its engine has fetched them; what is missing then is said by ``failures``.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ichat.config.schema import Model
from ichat.errors import Problem

#: Where a model says which of its classes stand for what.
_CONFIGS = ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json")
#: Both engines run the code of these; that of the model itself only where they have no implementation of their own.
_ALWAYS_RUN = ("AutoConfig", "AutoTokenizer", "AutoProcessor", "AutoImageProcessor", "AutoVideoProcessor")


def missing_packages(model: Model, environment: Path, environ: Mapping[str, str]) -> list[str]:
    """What the code of a local model imports that is not in its engine's environment, by the names of its imports."""
    if not model.trust_remote_code or not model.model_path.startswith("/") or not environment.is_dir():
        return []
    directory = Path(model.model_path)
    imported = {name for file in _files(directory) for name in imports_of(file)}
    wanted = sorted(imported - sys.stdlib_module_names - {file.stem for file in directory.glob("*.py")})
    places = [*_site_packages(environment), *_python_path({**environ, **model.env})]
    return [name for name in wanted if not any(_is_in(place, name) for place in places)]


def problem_of(model: Model, packages: list[str], place: str) -> Problem:
    return Problem("E-MODEL-PACKAGES", f"{place}:" if place else "", words_of(model.model_path, packages))


def words_of(subject: str, packages: list[str]) -> str:
    listed = ", ".join(packages)
    return (
        f"{subject}: the model's code (trust_remote_code) imports {listed}, which the engine's environment lacks. "
        f"Add {'it' if len(packages) == 1 else 'them'} to an image: docs/from-ichat.md."
    )


def imports_of(file: Path) -> set[str]:
    """Top-level packages that a file needs, as transformers sees it: not what it tries, nor what it asks for first."""
    try:
        return set(_imports(ast.parse(file.read_bytes())))
    except (OSError, SyntaxError, ValueError, RecursionError):
        return set()  # its engine will say what is wrong with it


def _imports(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Try) or (isinstance(node, ast.If) and _asks_for_a_package(node.test)):
        return
    if isinstance(node, ast.Import):
        yield from (alias.name.partition(".")[0] for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
        yield node.module.partition(".")[0]
    for child in ast.iter_child_nodes(node):
        yield from _imports(child)


def _asks_for_a_package(test: ast.expr) -> bool:
    """`if is_flash_attn_2_available():` and the like."""
    calls = (node.func for node in ast.walk(test) if isinstance(node, ast.Call))
    names = (getattr(call, "id", getattr(call, "attr", "")) for call in calls)
    return any(name.startswith("is_") and "available" in name for name in names)


def _files(directory: Path) -> list[Path]:
    """The files that are always run, and those of the model that they import."""
    found: list[Path] = []
    waiting = [directory / f"{name}.py" for name in _modules(directory)]
    while waiting:
        file = waiting.pop()
        if file not in found and file.is_file():
            found.append(file)
            waiting += [directory / f"{name}.py" for name in _relative_imports(file)]
    return found


def _modules(directory: Path) -> Iterator[str]:
    for config in _CONFIGS:
        classes = _auto_map(directory / config)
        for name in _ALWAYS_RUN:
            said = classes.get(name)
            for reference in said if isinstance(said, list) else [said]:
                # `org/repo--module.Class` is code of another repository, which is not here.
                if isinstance(reference, str) and "--" not in reference:
                    yield reference.partition(".")[0]


def _auto_map(config: Path) -> dict[str, Any]:
    try:
        found = json.loads(config.read_bytes()).get("auto_map") or {}
    except (OSError, ValueError, AttributeError):
        return {}  # told by the preflight, or not there
    return found if isinstance(found, dict) else {"AutoTokenizer": found}


def _relative_imports(file: Path) -> set[str]:
    try:
        nodes = [
            node for node in ast.walk(ast.parse(file.read_bytes())) if isinstance(node, ast.ImportFrom) and node.level
        ]
    except (OSError, SyntaxError, ValueError, RecursionError):
        return set()
    return {name for node in nodes for name in ([node.module] if node.module else [alias.name for alias in node.names])}


def _site_packages(environment: Path) -> Iterator[Path]:
    """The directory of installed packages, and those that its .pth files add."""
    for packages in environment.glob("lib/python3*/site-packages"):
        yield packages
        for file in packages.glob("*.pth"):
            lines = file.read_text(errors="replace").splitlines()
            yield from (packages / line for line in lines if line and not line.startswith(("import ", "import\t", "#")))


def _python_path(environ: Mapping[str, str]) -> Iterator[Path]:
    yield from map(Path, filter(None, environ.get("PYTHONPATH", "").split(":")))


def _is_in(place: Path, name: str) -> bool:
    return (place / name).is_dir() or (place / f"{name}.py").is_file() or any(place.glob(f"{name}.*.so"))
