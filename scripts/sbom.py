"""Writes what an image holds as a software bill of materials (CycloneDX 1.6, JSON): sbom.py [IMAGE] [FILE].

Asked of the image itself, in a container without a network: the distribution's packages, and those of each Python
environment with the environments that they are in.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from cyclonedx.model import Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

#: Runs in the image. One JSON object: the distribution, its packages, and the Python packages by environment.
_ASK = """
import glob, json, platform, subprocess
from importlib.metadata import distributions as found
asked = ["dpkg-query", "-W", "-f", "${Package}\\t${Version}\\t${Architecture}\\n"]
python = {
    place.split("/")[3]: sorted({(d.metadata["Name"], d.version) for d in found(path=[place])})
    for place in glob.glob("/opt/ichat/*/lib/python3*/site-packages")
}
release = platform.freedesktop_os_release()
print(json.dumps({
    "distribution": [release["ID"], release.get("VERSION_ID", "")],
    "debian": [line.split("\\t") for line in subprocess.check_output(asked, text=True).splitlines()],
    "python": python,
}))
"""


def main(image: str = "ichat:latest", path: str = "build/sbom.json") -> None:
    bom = bill(image, ask(image))
    text = JsonV1Dot6(bom).output_as_string(indent=1)
    if error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise SystemExit(f"{image}: what came out is no valid CycloneDX: {error}")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)
    print(f"{path}: {len(bom.components)} components of {image}")


def ask(image: str) -> dict[str, Any]:
    """What the image holds. SystemExit with Docker's words when it cannot be run."""
    docker = os.environ.get("DOCKER", "docker")
    run = [docker, "run", "--rm", "--network", "none", "--entrypoint", "/opt/ichat/ichat/bin/python", image, "-c", _ASK]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{image}: {done.stderr.strip() or 'no answer'}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def bill(image: str, found: dict[str, Any]) -> Bom:
    """The same versions of a Python package in several environments are one component."""
    bom = Bom()
    bom.metadata.component = Component(name=image, type=ComponentType.CONTAINER, bom_ref=image)
    distribution, release = found["distribution"]
    for name, version, architecture in found["debian"]:
        qualifiers = {"arch": architecture, "distro": f"{distribution}-{release}"}
        bom.components.add(_component(name, version, PackageURL("deb", distribution, name, version, qualifiers)))
    environments: dict[tuple[str, str], list[str]] = {}
    for environment, packages in found["python"].items():
        for name, version in packages:
            environments.setdefault((name, version), []).append(environment)
    for (name, version), where in environments.items():
        component = _component(name, version, PackageURL("pypi", None, name.lower().replace("_", "-"), version))
        component.properties.update(Property(name="ichat:environment", value=one) for one in where)
        bom.components.add(component)
    return bom


def _component(name: str, version: str, purl: PackageURL) -> Component:
    return Component(name=name, version=version, type=ComponentType.LIBRARY, purl=purl, bom_ref=str(purl))


if __name__ == "__main__":
    main(*sys.argv[1:])
