"""What `make sbom` and `make provenance` say of an image: licences by their names in SPDX, hashes, what differs from a commit."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

import inventory
import licences
import provenance
import sbom

ROOT = Path(__file__).resolve().parents[2]


def python_package(name: str = "thing", version: str = "1.0", **fields: Any) -> dict[str, Any]:
    nothing = {"expression": None, "license": None, "classifiers": [], "record": "a" * 64}
    return {"name": name, "version": version, **nothing, **fields}


def names(licenses: list[Any]) -> list[str]:
    return [getattr(one, "value", None) or one.id or f"named {one.name}" for one in licenses]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"expression": "MIT AND (Apache-2.0 OR BSD-2-Clause)"}, ["MIT AND (Apache-2.0 OR BSD-2-Clause)"]),
        ({"expression": "LicenseRef-NVIDIA-Proprietary"}, ["LicenseRef-NVIDIA-Proprietary"]),
        ({"expression": "whatever you like"}, ["named whatever you like"]),
        ({"classifiers": ["License :: OSI Approved :: Apache Software License"]}, ["Apache-2.0"]),
        ({"classifiers": ["License :: OSI Approved :: BSD License"], "license": "BSD"}, ["named BSD License"]),
        ({"classifiers": ["License :: OSI Approved"], "license": "Apache 2.0"}, ["Apache-2.0"]),
        ({"license": "CC0-1.0 OR Apache-2.0"}, ["CC0-1.0 OR Apache-2.0"]),
        ({"license": "MIT License\n\nCopyright (c) 2022 somebody"}, ["MIT"]),
        ({"license": "NVIDIA Proprietary Software"}, ["named NVIDIA Proprietary Software"]),
        ({"license": "Permission is hereby granted " * 9}, ["named " + ("Permission is hereby granted " * 9)[:80]]),
        ({}, []),
    ],
)
def test_the_licence_of_a_python_package_is_what_it_declares(fields: dict[str, Any], expected: list[str]) -> None:
    assert names(licences.of_python(python_package(**fields))) == expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("Expat", "MIT"),
        ("GPL-2+", "GPL-2.0-or-later"),
        ("GPL-3", "GPL-3.0-only"),
        ("LGPL-2.1+", "LGPL-2.1-or-later"),
        ("BSD-3-clause", "BSD-3-Clause"),
        ("public-domain", "named public-domain"),
        ("GPL-3+ with Bison exception", "named GPL-3+ with Bison exception"),
    ],
)
def test_debians_names_of_licences_are_put_into_those_of_spdx(said: str, expected: str) -> None:
    assert names(licences.of_debian({"licenses": [said]})) == [expected]


def test_a_copyright_file_is_read_where_a_machine_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "copyright"
    path.write_text(
        "Format: https://…\n\nFiles: *\nLicense: Expat\n\nFiles: a\nLicense: GPL-2+\n text\nLicense: Expat\n"
    )
    assert inventory.debian_licenses(path) == ["Expat", "GPL-2+"]
    path.write_text("This package was debianized by …\nLicense: whatever\n")
    assert inventory.debian_licenses(path) == []
    assert inventory.debian_licenses(tmp_path / "none") == []


def bill(tmp_path: Path, **python: list[dict[str, Any]]) -> dict[str, Any]:
    """Of an image with these environments, as the file has it."""
    lock = tmp_path / "engine.txt"
    lock.write_text(
        f"a-thing==1.0 ; python_version < '3.14' \\\n    --hash=sha256:{'1' * 64} \\\n    --hash=sha256:{'2' * 64}\nother==2.0\n"
    )
    debian = {"name": "tini", "version": "0.19", "architecture": "amd64", "licenses": ["Expat"], "record": None}
    found = {"distribution": ["debian", "12"], "debian": [debian], "python": python}
    text = JsonV1Dot6(
        sbom.bill("image:tag", f"sha256:{'f' * 64}", found, sbom.locked_hashes([lock]))
    ).output_as_string()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    written: dict[str, Any] = json.loads(text)
    return written


def test_a_package_in_two_environments_is_one_component_with_the_hashes_of_both(tmp_path: Path) -> None:
    twice = {"vllm": [python_package("A.Thing")], "sglang": [python_package("A.Thing", record="b" * 64)]}
    components = {one["purl"].partition("?")[0]: one for one in bill(tmp_path, **twice)["components"]}
    assert set(components) == {"pkg:pypi/a-thing@1.0", "pkg:deb/debian/tini@0.19"}
    thing = components["pkg:pypi/a-thing@1.0"]
    assert [one["content"] for one in thing["hashes"]] == ["a" * 64, "b" * 64]
    assert [one["value"] for one in thing["properties"]] == ["sglang", "vllm", "RECORD"]
    (files,) = thing["externalReferences"]
    assert [one["content"] for one in files["hashes"]] == ["1" * 64, "2" * 64]


def test_the_bill_says_which_image_it_is_of(tmp_path: Path) -> None:
    component = bill(tmp_path)["metadata"]["component"]
    assert (component["name"], component["hashes"][0]["content"]) == ("image:tag", "f" * 64)


# ---- provenance -----------------------------------------------------------------------------------------------

COMMIT = "c" * 40
IMAGE = {
    "Id": f"sha256:{'f' * 64}",
    "Created": "2026-11-30T00:00:00Z",
    "RepoDigests": [f"registry.example.org/team/ichat@sha256:{'e' * 64}"],
    "Config": {
        "Labels": {
            "org.opencontainers.image.revision": COMMIT,
            "org.opencontainers.image.base.name": "debian:12",
            "org.opencontainers.image.base.digest": f"sha256:{'d' * 64}",
            "ichat.accelerator": "cpu",
        }
    },
}
INSIDE = {"files": {"ichat/cli.py": "1", "entrypoint": "2"}, "locks": {"requirements/locks/ichat.txt": "3"}}


def test_a_statement_names_the_image_and_all_that_it_was_made_of() -> None:
    statement = provenance.provenance("image:tag", IMAGE, INSIDE, {"ichat/cli.py": "1", "entrypoint": "2"})
    assert statement["subject"] == [
        {"name": "image:tag", "digest": {"sha256": "f" * 64}},
        {"name": "registry.example.org/team/ichat", "digest": {"sha256": "e" * 64}},
    ]
    build = statement["predicate"]["buildDefinition"]
    assert [one["digest"] for one in build["resolvedDependencies"]] == [
        {"gitCommit": COMMIT}, {"sha256": "d" * 64}, {"sha256": "3"},
    ]  # fmt: skip
    assert build["externalParameters"] == {"accelerator": "cpu"}
    assert build["internalParameters"] == {"notOfTheCommit": []}


@pytest.mark.parametrize(
    ("commit_files", "differs"),
    [({"ichat/cli.py": "1", "entrypoint": "9"}, ["entrypoint"]), ({"entrypoint": "2"}, ["ichat/cli.py"]), (None, ["entrypoint", "ichat/cli.py"])],
    ids=["changed", "not committed", "commit not known here"],
)  # fmt: skip
def test_a_statement_claims_no_commit_that_the_image_is_not_of(
    commit_files: dict[str, str] | None, differs: list[str]
) -> None:
    statement = provenance.provenance("image:tag", IMAGE, INSIDE, commit_files)
    assert statement["predicate"]["buildDefinition"]["internalParameters"]["notOfTheCommit"] == differs


def test_the_names_of_contents_are_gits() -> None:
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    committed = provenance.blobs_of(head)
    assert committed is not None
    asked = ["git", "hash-object", "--no-filters", "LICENSE" if (ROOT / "LICENSE").exists() else "README.md"]
    name = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    assert inventory.blob(ROOT / asked[-1]) == name
    assert asked[-1] in committed
    assert provenance.blobs_of("unknown") is None
    assert provenance.blobs_of("0" * 40) is None
