"""Tells which known flaws the image's Python packages have: audit.py [LOCK or SBOM …] [options of pip-audit …].

pip-audit looks them up, in PyPI's list or with `--vulnerability-service osv` in OSV's. Of a package that its list does
not have it says "none". Here that is no answer. Exit 0: each package was looked up and nothing is open; 1: something is
open; 2: something was not looked up. What is accepted, why, and how long: scripts/audit-allow.toml.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packageurl import PackageURL

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = Path(__file__).with_name("audit-allow.toml")
LOCKS = ROOT / "requirements" / "locks"
#: Locks of what is never in an image.
OUTSIDE = ("dev", "peers")
_LOCKED = re.compile(r"^([a-z0-9][a-z0-9._-]*)==([^\s;\\]+)", re.M)

Package = tuple[str, str]


@dataclass(frozen=True)
class Allowance:
    """A vulnerability that is known and accepted for a while."""

    id: str
    package: str
    reason: str
    until: datetime.date


@dataclass(frozen=True)
class Finding:
    """One vulnerability of one package, under all its names."""

    package: Package
    ids: tuple[str, ...]
    fixed_in: tuple[str, ...]
    about: str

    def __str__(self) -> str:
        way_out = f"fixed in {', '.join(self.fixed_in)}" if self.fixed_in else "no fixed version yet"
        return f"{'=='.join(self.package)}: {' '.join(self.ids)}: {self.about} ({way_out})"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "paths", nargs="*", type=Path, help="lock files, or SBOMs of `make sbom`; default: all of the image"
    )
    parser.add_argument("--allowed", type=Path, default=ALLOWED, help="what is accepted")
    given, for_pip_audit = parser.parse_known_args(argv)
    where = places(given.paths or locks_of_images())
    answers = [one for batch in rounds(where) for one in look_up(batch, for_pip_audit)]
    return report(answers, where, read_allowances(given.allowed), datetime.datetime.now(datetime.UTC).date())


def locks_of_images() -> list[Path]:
    return sorted(path for path in LOCKS.rglob("*.txt") if path.stem not in OUTSIDE)


def places(paths: Iterable[Path]) -> dict[Package, list[str]]:
    """Each package with the files that name it. A build's own label (+cpu) is left out: no list of flaws knows it."""
    found: dict[Package, list[str]] = {}
    for path in paths:
        for name, version in packages_in(path.read_text()):
            found.setdefault((name, version.partition("+")[0]), []).append(name_of(path))
    return found


def name_of(path: Path) -> str:
    return str(path.relative_to(LOCKS).with_suffix("")) if path.is_relative_to(LOCKS) else path.stem


def packages_in(text: str) -> set[Package]:
    if not text.lstrip().startswith("{"):
        return set(_LOCKED.findall(text))
    urls = [PackageURL.from_string(one["purl"]) for one in json.loads(text)["components"] if "purl" in one]
    return {(url.name, url.version or "") for url in urls if url.type == "pypi"}


def rounds(packages: Iterable[Package]) -> Iterator[list[Package]]:
    """pip-audit takes one version of a package at a time; the engines have several."""
    left = sorted(packages)
    while left:
        batch = dict(reversed(left))  # the first version of each
        yield sorted(batch.items())
        left = [one for one in left if one not in batch.items()]


def look_up(packages: list[Package], options: list[str]) -> list[dict[str, Any]]:
    """What pip-audit says of each, as it says it. SystemExit with its words when it cannot ask at all."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.writelines(f"{name}=={version}\n" for name, version in packages)
        file.flush()
        asked = [
            "--requirement",
            file.name,
            "--no-deps",
            "--disable-pip",
            "--format",
            "json",
            "--progress-spinner",
            "off",
        ]
        command = [sys.executable, "-m", "pip_audit", *asked, *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (json.JSONDecodeError, KeyError):
        lines = done.stderr.strip().splitlines() or ["no words"]
        print(f"audit: pip-audit gave no answer: {lines[-1]}. Is its service reachable from here?", file=sys.stderr)
        raise SystemExit(2) from None
    return found


def read_allowances(path: Path) -> list[Allowance]:
    """SystemExit for one without a reason or an end."""
    entries = tomllib.loads(path.read_text()).get("allowed", [])
    try:
        return [Allowance(**entry) for entry in entries]
    except TypeError as error:
        raise SystemExit(f"{path.name}: {error}. Each entry has id, package, reason, until.") from None


def report(
    answers: list[dict[str, Any]],
    where: Mapping[Package, list[str]],
    allowances: list[Allowance],
    today: datetime.date,
) -> int:
    """Print what is open, what is accepted and what is not known; the exit code."""
    unknown = [one for one in answers if "skip_reason" in one]
    is_open = False
    for finding in findings(answers):
        allowance = next(
            (one for one in allowances if one.package == finding.package[0] and one.id in finding.ids), None
        )
        if allowance and allowance.until >= today:
            print(f"accepted until {allowance.until}: {finding}: {allowance.reason}")
            continue
        is_open = True
        over = f"; was accepted until {allowance.until}" if allowance else ""
        print(f"OPEN: {finding}; in {', '.join(where[finding.package])}{over}")
    for one in unknown:
        print(f"NOT KNOWN: {one['name']}: {one['skip_reason']}")
    print(f"{len(answers) - len(unknown)} of {len(where)} packages looked up")
    return 1 if is_open else 2 if unknown or len(answers) < len(where) else 0


def findings(answers: list[dict[str, Any]]) -> Iterator[Finding]:
    for one in answers:
        for flaw in one.get("vulns", ()):
            about = (flaw.get("description") or "").strip().splitlines() or ["no description"]
            ids = (flaw["id"], *flaw.get("aliases", ()))
            yield Finding((one["name"], one["version"]), ids, tuple(flaw.get("fix_versions", ())), about[0])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
