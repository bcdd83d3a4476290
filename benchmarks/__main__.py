"""``python -m benchmarks [NAME …]``: run benchmarks, show their tables, keep their figures."""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from benchmarks import contenders, machine, report
from benchmarks.figures import Findings
from benchmarks.front import page
from benchmarks.options import Options
from benchmarks.process_tree import adopt_orphans

#: In the order in which they run: the short ones first.
_MODULES = {
    "config": "benchmarks.config",
    "front": "benchmarks.front.benchmark",
    "attacks": "benchmarks.front.attacks",
    "start": "benchmarks.start",
    "serving": "benchmarks.serving",
}
NAMES = tuple(_MODULES)
_NEEDS_ENGINES = {"start", "serving"}
_RESULTS = Path(__file__).parent / "results"


def main(argv: Sequence[str]) -> int:
    """0: every benchmark came to its end. Goals that are missed are told, and are no failure of the benchmark."""
    chosen = _parse(argv)
    options = Options(chosen.engines, chosen.model, chosen.rounds, chosen.quick)
    adopt_orphans()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    failed = []
    for name in chosen.names or NAMES:
        found = machine.circumstances()
        print(f"{name}: {machine.words(found)}", flush=True)
        try:
            outcome = _run(name, options)
        except RuntimeError:
            traceback.print_exc()
            failed.append(name)
            continue
        print(f"\n{report.table(outcome.rows)}\n\n{report.summary(name, outcome.rows, outcome.gaps)}\n", flush=True)
        if not options.is_quick:
            facts = found | {"load_after": machine.load(), **outcome.facts}
            _show(report.keep(chosen.results, name, outcome.rows, facts))
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _run(name: str, options: Options) -> Findings:
    found = importlib.import_module(_MODULES[name]).run(options)
    return found if isinstance(found, Findings) else Findings(found)


def _show(kept: Path) -> None:
    """The front's figures have a picture, and a section in the README where they are the ones that are kept here."""
    if kept.stem == "front":
        page.draw(kept)
        if kept.parent == _RESULTS:
            page.describe(kept)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(NAMES)}; without any, all")
    parser.add_argument("--engines", nargs="+", choices=contenders.TITLES, default=contenders.installed())
    parser.add_argument("--model", type=Path, default=Options.model, help="a local model instead of the demo model")
    parser.add_argument("--rounds", type=int, help="of each comparison; without it each benchmark takes its own number")
    parser.add_argument("--quick", action="store_true", help="only see whether it runs; nothing is kept")
    parser.add_argument("--results", type=Path, default=_RESULTS, help="where the figures are kept")
    chosen = parser.parse_args(argv)
    if unknown := set(chosen.names) - set(NAMES):
        parser.error(f"{', '.join(sorted(unknown))}: no such benchmark. There are: {', '.join(NAMES)}.")
    if missing := set(chosen.engines) - set(contenders.installed()):
        parser.error(f"{', '.join(sorted(missing))}: no such environment. Run `make setup`.")
    if not chosen.engines and set(chosen.names or NAMES) & _NEEDS_ENGINES:
        parser.error("there is no engine here. Run `make setup`.")
    return chosen


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Unwind as for Ctrl-C: everything that was started is stopped on the way out."""
    del number, frame
    raise KeyboardInterrupt


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
