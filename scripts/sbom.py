"""Writes what an image holds as a software bill of materials (CycloneDX 1.6, JSON): sbom.py [IMAGE] [FILE].

Asked of the image itself: the distribution's packages, and those of each Python environment, each with the licences
that it declares, and with a hash of the list of its files. A Python package has the hashes that its lock accepts, too.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, Property, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from inventory import ask, inspect
from licences import of_debian, of_python

LOCKS = Path(__file__).resolve().parents[1] / "requirements" / "locks"
_LOCKED = re.compile(r"^([a-z0-9][a-z0-9._-]*)==([^\s;\\]+)[^\n]*((?:\n +--hash=sha256:[0-9a-f]{64}[ \\]*)*)", re.M)


def main(image: str = "ichat:latest", path: str = "build/sbom.json") -> None:
    bom = bill(image, inspect(image)["Id"], ask(image), locked_hashes(LOCKS.rglob("*.txt")))
    text = JsonV1Dot6(bom).output_as_string(indent=1)
    if error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise SystemExit(f"{image}: what came out is no valid CycloneDX: {error}")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)
    silent = sum(not component.licenses for component in bom.components)
    print(f"{path}: {len(bom.components)} components of {image}, {silent} of them declare no licence")


def locked_hashes(locks: Iterable[Path]) -> dict[tuple[str, str], set[str]]:
    """The files that a lock accepts for a package, by their SHA-256: one of them was installed."""
    found: dict[tuple[str, str], set[str]] = {}
    for lock in locks:
        for name, version, hashes in _LOCKED.findall(lock.read_text()):
            found.setdefault((name, version), set()).update(re.findall(r"[0-9a-f]{64}", hashes))
    return found


def bill(image: str, digest: str, found: dict[str, Any], locked: dict[tuple[str, str], set[str]]) -> Bom:
    """The same version of a Python package in several environments is one component."""
    bom = Bom()
    whole = Component(
        name=image, type=ComponentType.CONTAINER, bom_ref=image, hashes=_hashes([digest.partition(":")[2]])
    )
    bom.metadata.component = whole
    distribution, release = found["distribution"]
    for package in found["debian"]:
        name, version = package["name"], package["version"]
        qualifiers = {"arch": package["architecture"], "distro": f"{distribution}-{release}"}
        purl = PackageURL("deb", distribution, name, version, qualifiers)
        bom.components.add(_component(name, version, purl, of_debian(package), [package["record"]]))
    for (name, version), copies in _by_version(found["python"]).items():
        plain = re.sub(r"[-_.]+", "-", name).lower()
        records = [package["record"] for package in copies.values()]
        component = _component(
            name, version, PackageURL("pypi", None, plain, version), of_python(next(iter(copies.values()))), records
        )
        component.properties.update(Property(name="ichat:environment", value=one) for one in copies)
        if accepted := locked.get((plain, version)):
            page = XsUri(f"https://pypi.org/project/{plain}/{version.partition('+')[0]}/#files")
            component.external_references.add(
                ExternalReference(
                    type=ExternalReferenceType.DISTRIBUTION,
                    url=page,
                    comment="the files that the lock accepts; one of them was installed",
                    hashes=_hashes(accepted),
                )
            )
        bom.components.add(component)
    bom.register_dependency(whole, bom.components)
    return bom


def _by_version(python: dict[str, list[dict[str, Any]]]) -> dict[tuple[str, str], dict[str, dict[str, Any]]]:
    """(name, version) → environment → the package as it is there."""
    found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for environment, packages in python.items():
        for package in packages:
            found.setdefault((package["name"], package["version"]), {})[environment] = package
    return found


def _component(
    name: str, version: str, purl: PackageURL, licenses: list[License], records: list[str | None]
) -> Component:
    """``records``: the SHA-256 of the list of its files with their hashes (RECORD, or dpkg's md5sums)."""
    known = [one for one in records if one]
    properties = [Property(name="ichat:hash-of", value="md5sums" if purl.type == "deb" else "RECORD")] if known else []
    return Component(
        name=name,
        version=version,
        type=ComponentType.LIBRARY,
        purl=purl,
        bom_ref=str(purl),
        licenses=licenses,
        hashes=_hashes(known),
        properties=properties,
    )


def _hashes(found: Iterable[str]) -> list[HashType]:
    return [HashType(alg=HashAlgorithm.SHA_256, content=one) for one in sorted(set(found))]


if __name__ == "__main__":
    main(*sys.argv[1:])
