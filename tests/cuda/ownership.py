"""Which packages of an environment own a file, and whether they agree on it. The last one installed wins, silently."""

import base64
import csv
import hashlib
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

#: Files that packages may fight over, with the reason why it does not matter who wins.
HARMLESS = {
    "build_backend.py": "flashinfer-python and torch-c-dlpack-ext ship what builds their wheels; nothing imports it",
}


class Conflict(NamedTuple):
    path: str
    owners: tuple[str, ...]
    why: str


def owners_of(site_packages: Path) -> dict[str, dict[str, str]]:
    """File (as written, below site-packages) → package → hash, from what each package says that it installed."""
    owners: dict[str, dict[str, str]] = defaultdict(dict)
    for record in sorted(site_packages.glob("*.dist-info/RECORD")):
        package = record.parent.name.removesuffix(".dist-info")
        with record.open(newline="") as lines:
            for path, digest, *_ in csv.reader(lines):
                owners[path][package] = digest
    return owners


def conflicts_in(site_packages: Path) -> list[Conflict]:
    """Files that several packages own with different contents, and those whose content is not what they all own."""
    found = []
    for path, owners in sorted(owners_of(site_packages).items()):
        if len(owners) == 1 or path in HARMLESS:
            continue
        hashes = set(owners.values())
        if len(hashes) > 1:
            found.append(Conflict(path, tuple(owners), "they own different contents"))
        elif (digest := hashes.pop()) and digest != _digest(site_packages / path):
            found.append(Conflict(path, tuple(owners), "its content is another"))
    return found


def _digest(path: Path) -> str:
    content = hashlib.sha256(path.read_bytes()).digest() if path.exists() else b""
    return f"sha256={base64.urlsafe_b64encode(content).rstrip(b'=').decode()}"
