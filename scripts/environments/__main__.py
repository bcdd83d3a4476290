"""`make setup` and `make locks`. Runs on a bare Python: only the standard library, and uv which it fetches itself."""

import argparse
import sys
from pathlib import Path

from building import SetupError, set_up
from locking import write_locks
from recipes import NAMES, ROOT, Recipe, recipes_for
from uv import Uv

OK, CANNOT, INTERRUPTED = 0, 69, 130


def say(line: str) -> None:
    print(line, flush=True)


def main() -> int:
    arguments = _parse()
    try:
        if arguments.locks:
            write_locks(say, is_upgrade=arguments.upgrade)
        else:
            _set_up(arguments)
    except SetupError as error:
        print(error, file=sys.stderr)
        return CANNOT
    except KeyboardInterrupt:
        print("interrupted: what was downloaded is kept; run it again to go on.", file=sys.stderr)
        return INTERRUPTED
    return OK


def _set_up(arguments: argparse.Namespace) -> None:
    names = [name for name in NAMES if name in arguments.names] or NAMES
    wanted = {name: recipes_for(name, arguments.accelerator) for name in names}
    for recipe in (recipes[0] for recipes in wanted.values()):
        _check_python(recipe)
    if not set_up(arguments.into, wanted, Uv(say), say) and not arguments.quiet:
        say(f"{', '.join(names)}: up to date")


def _check_python(recipe: Recipe) -> None:
    if recipe.python not in (None, sys.version_info[:2]):
        version = ".".join(map(str, recipe.python or ()))
        raise SetupError(
            f"{recipe.name}: its lock file for CUDA is for Python {version}, and this is {sys.version.split()[0]}. "
            f"Install python{version} with its venv module, or set up for the CPU: make setup ACCELERATOR=cpu."
        )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/setup", description="Set up ichat's Python environments.")
    parser.add_argument("names", nargs="*", choices=(*NAMES, []), help="which ones; all if none is named")
    parser.add_argument("--accelerator", choices=("cpu", "cuda"), default="cpu", help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, default=ROOT / ".venvs", help="directory of the environments")
    parser.add_argument("--quiet", action="store_true", help="say nothing when nothing is to be done")
    parser.add_argument("--locks", action="store_true", help="write the lock files instead")
    parser.add_argument("--upgrade", action="store_true", help="with --locks: take newer versions where they fit")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
