"""`make setup` and `make locks`. Runs on a bare Python: only the standard library, and uv which it fetches itself."""

import argparse
import sys
from pathlib import Path

from building import SetupError, Site, set_up
from extras import wanted_extras
from locking import write_locks
from recipes import NAMES, recipes_for
from uv import Uv
from versions import ENGINES, ROOT, pinned_version, refusal

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
    versions = {engine: getattr(arguments, engine) for engine in ENGINES if engine in names}
    for engine, version in versions.items():
        if version and (why := refusal(engine, version, arguments.accelerator)):
            raise SetupError(why)
    try:
        extras = wanted_extras(arguments.extras, arguments.accelerator)
    except ValueError as error:
        raise SetupError(str(error)) from error
    for engine, version in versions.items():
        if extras and version and version != pinned_version(engine):
            what = f'EXTRAS="{arguments.extras}": they are locked for the pinned engines, not for {engine} {version}.'
            raise SetupError(f"{what} Leave out one or the other.")
    if arguments.check:
        return
    wanted = {name: recipes_for(name, arguments.accelerator, versions.get(name) or None, extras) for name in names}
    site = Site(arguments.into, arguments.final)
    if not set_up(site, wanted, Uv(say), say) and not arguments.quiet:
        say(f"{', '.join(names)}: up to date")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/setup", description="Set up ichat's Python environments.")
    parser.add_argument("names", nargs="*", choices=(*NAMES, []), help="which ones; all if none is named")
    parser.add_argument("--accelerator", choices=("cpu", "cuda"), default="cpu", help=argparse.SUPPRESS)
    for engine in ENGINES:
        parser.add_argument(f"--{engine}", metavar="VERSION", help="in another version than the pinned one")
    parser.add_argument("--check", action="store_true", help="only say whether there are locks for these versions")
    parser.add_argument("--extras", default="", help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, default=ROOT / ".venvs", help="directory of the environments")
    parser.add_argument("--for", type=Path, dest="final", help="where they will stand, if they are moved afterwards")
    parser.add_argument("--quiet", action="store_true", help="say nothing when nothing is to be done")
    parser.add_argument("--locks", action="store_true", help="write the lock files instead")
    parser.add_argument("--upgrade", action="store_true", help="with --locks: take newer versions where they fit")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
