"""Writes what an image was made of, an in-toto statement with SLSA's provenance: provenance.py [IMAGE] [FILE].

It is not signed. It claims what can be checked here: the commit that the image's label names, and each file of the
image's checkout that is not that commit's; the lock files within; the base; the arguments of the build; when it ended.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inventory import ask, inspect

ROOT = Path(__file__).resolve().parents[1]
STATEMENT, PREDICATE = "https://in-toto.io/Statement/v1", "https://slsa.dev/provenance/v1"
#: How the image was built: by scripts/image, whose arguments are the external parameters.
BUILD_TYPE = "urn:ichat:build:scripts/image:v1"
COMMIT = "[0-9a-f]{40}"
LABELS = "org.opencontainers.image."
#: Made by whoever ran this; nobody has signed it.
BUILDER = "urn:ichat:builder:local"


def main(image: str = "ichat:latest", path: str = "build/provenance.json") -> None:
    found = inspect(image)
    commit = (found["Config"]["Labels"] or {}).get(f"{LABELS}revision", "")
    inside = ask(image)
    statement = provenance(image, found, inside, blobs_of(commit))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(statement, indent=1) + "\n")
    others = len(statement["predicate"]["buildDefinition"]["internalParameters"]["notOfTheCommit"])
    print(f"{path}: {image}, from commit {commit or 'unknown'}, {others} of its files are not that commit's")


def blobs_of(commit: str) -> dict[str, str] | None:
    """Path → git's name of the content, of a commit; None when this checkout does not have it."""
    if not re.fullmatch(COMMIT, commit):
        return None
    done = subprocess.run(["git", "ls-tree", "-r", "-z", commit], cwd=ROOT, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.split("\0") if line]
    return {path: about.split()[2] for about, _, path in (line.partition("\t") for line in lines)} or None


def provenance(
    image: str, found: Mapping[str, Any], inside: Mapping[str, Any], commit_files: Mapping[str, str] | None
) -> dict[str, Any]:
    """``found``: of `docker image inspect`; ``inside``: the inventory; ``commit_files``: of `blobs_of`."""
    labels: dict[str, str] = found["Config"]["Labels"] or {}
    parameters = {name.removeprefix("ichat."): value for name, value in labels.items() if name.startswith("ichat.")}
    return {
        "_type": STATEMENT,
        "subject": subjects(image, found),
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": parameters,
                "internalParameters": {"notOfTheCommit": differences(inside["files"], commit_files)},
                "resolvedDependencies": [*source(labels), *base(labels), *locks(inside["locks"])],
            },
            "runDetails": {
                "builder": {"id": BUILDER},
                "metadata": {"finishedOn": found["Created"]},
            },
        },
    }


def subjects(image: str, found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The image by its configuration, and by each registry's digest once it was pushed."""
    pushed = [name.partition("@") for name in found.get("RepoDigests") or []]
    return [{"name": name, "digest": _digest(digest)} for name, _, digest in [(image, "", found["Id"]), *pushed]]


def differences(files: Mapping[str, str], commit_files: Mapping[str, str] | None) -> list[str]:
    """Files of the checkout in the image that are not the commit's. All of them where the commit is not known here."""
    known = commit_files or {}
    return sorted(path for path, blob in files.items() if known.get(path) != blob)


def source(labels: Mapping[str, str]) -> list[dict[str, Any]]:
    commit = labels.get(f"{LABELS}revision", "")
    if not re.fullmatch(COMMIT, commit):
        return []
    uri = labels.get(f"{LABELS}source") or "urn:ichat:source"
    return [{"uri": f"git+{uri}@{commit}", "digest": {"gitCommit": commit}}]


def base(labels: Mapping[str, str]) -> list[dict[str, Any]]:
    name, digest = labels.get(f"{LABELS}base.name", ""), labels.get(f"{LABELS}base.digest", "")
    return [{"uri": f"docker://{name}", "digest": _digest(digest)}] if ":" in digest else []


def locks(hashes: Mapping[str, str]) -> list[dict[str, Any]]:
    """The lock files that lie in the image."""
    return [{"uri": f"file:{path}", "digest": {"sha256": value}} for path, value in sorted(hashes.items())]


def _digest(text: str) -> dict[str, str]:
    algorithm, _, value = text.partition(":")
    return {algorithm: value}


if __name__ == "__main__":
    main(*sys.argv[1:])
