"""Asks an image what is in it. Half of this file runs on this machine, half in the image, without a network."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

#: Where the image has what it holds of the checkout.
APP = Path("/opt/ichat/app")


# ---- on this machine ------------------------------------------------------------------------------------------


def docker(*argv: str) -> str:
    """stdout of Docker's client. SystemExit with its words when it fails."""
    done = subprocess.run([os.environ.get("DOCKER", "docker"), *argv], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"docker {argv[0]}: {done.stderr.strip() or 'no answer'}")
    return done.stdout


def ask(image: str) -> dict[str, Any]:
    """What the image holds; `main` says what that is."""
    python = "/opt/ichat/ichat/bin/python"
    run = ("run", "--rm", "--network", "none", "--entrypoint", python, image, "-c", Path(__file__).read_text())
    found: dict[str, Any] = json.loads(docker(*run))
    return found


def inspect(image: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(docker("image", "inspect", image))[0]
    return found


# ---- in the image, with nothing but Python --------------------------------------------------------------------


def main() -> None:
    """One JSON object: the distribution, its packages, the Python packages by environment, the checkout's files."""
    release = platform.freedesktop_os_release()
    places = sorted(APP.parent.glob("*/lib/python3*/site-packages"))
    found = {
        "distribution": [release["ID"], release.get("VERSION_ID", "")],
        "debian": debian_packages(),
        "python": {
            place.parts[3]: [python_package(one) for one in distributions(path=[str(place)])] for place in places
        },
        "files": {str(path.relative_to(APP)): blob(path) for path in checkout()},
        "locks": {str(path.relative_to(APP)): sha256(path) for path in APP.glob("requirements/locks/**/*.txt")},
    }
    print(json.dumps(found))


def checkout() -> list[Path]:
    """The files of the checkout, without what Python has compiled from them."""
    return sorted(path for path in APP.rglob("*") if path.is_file() and path.parent.name != "__pycache__")


def debian_packages() -> list[dict[str, Any]]:
    asked = ["dpkg-query", "-W", "-f", "${Package}\t${Version}\t${Architecture}\n"]
    lines = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()
    return [debian_package(*line.split("\t")) for line in lines]


def debian_package(name: str, version: str, architecture: str) -> dict[str, Any]:
    sums = [Path(f"/var/lib/dpkg/info/{name}{suffix}.md5sums") for suffix in ("", f":{architecture}")]
    return {
        "name": name,
        "version": version,
        "architecture": architecture,
        "licenses": debian_licenses(Path(f"/usr/share/doc/{name}/copyright")),
        "record": next((sha256(path) for path in sums if path.exists()), None),
    }


def debian_licenses(path: Path) -> list[str]:
    """The short names of a copyright file that is machine-readable; nothing of another one."""
    text = path.read_text(errors="replace") if path.exists() else ""
    if not text.startswith("Format:"):
        return []
    lines = (line for line in text.splitlines() if line.startswith("License:"))
    return sorted({line.partition(":")[2].strip() for line in lines} - {""})


def python_package(package: Distribution) -> dict[str, Any]:
    # `metadata` of a field that is missing is None, or an error to come.
    fields = {name: package.metadata.get_all(name) or [] for name in ("License-Expression", "License", "Classifier")}
    record = package.read_text("RECORD")
    return {
        "name": package.metadata["Name"],
        "version": package.version,
        "expression": next(iter(fields["License-Expression"]), None),
        "license": next(iter(fields["License"]), None),
        "classifiers": [one for one in fields["Classifier"] if one.startswith("License ::")],
        "record": hashlib.sha256(record.encode()).hexdigest() if record else None,
    }


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def blob(path: Path) -> str:
    """The name that git gives to this content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


if __name__ == "__main__":
    main()
