"""From what a package says of its licence to the names of SPDX, where there is one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from cyclonedx.model.license import DisjunctiveLicense, License, LicenseExpression
from cyclonedx.spdx import fixup_id, is_expression

#: Classifiers that mean one licence of SPDX. "BSD License" means one of several, and stays a name.
CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "GNU Lesser General Public License v3 (LGPLv3)": "LGPL-3.0-only",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
}
#: Other spellings, as packages of Python and of Debian have them.
SPELLINGS = {
    "3-clause bsd license": "BSD-3-Clause",
    "apache 2.0": "Apache-2.0",
    "apache 2.0 license": "Apache-2.0",
    "expat": "MIT",
    "mit license": "MIT",
}
_GNU = re.compile(r"(?P<family>[AL]?GPL|GFDL)-(?P<version>\d+(?:\.\d+)*)(?P<later>\+)?", re.I)
#: A licence's whole text is no name.
NAME_LIMIT = 80


def of_python(package: dict[str, Any]) -> list[License]:
    """What the metadata declare: the expression, else the classifiers, else the field of old."""
    if package["expression"]:
        return [_expression(package["expression"])]
    text = (package["license"] or "").strip()
    if text and not fixup_id(text) and is_expression(text):
        return [LicenseExpression(text)]
    classified = [one.rpartition(" :: ")[2] for one in package["classifiers"]]
    named = [one for one in classified if one != "OSI Approved"] or [text.partition("\n")[0]]
    return _licenses(CLASSIFIERS.get(one, one) for one in named)


def of_debian(package: dict[str, Any]) -> list[License]:
    """Each licence of some file of the package. What holds for which file: its copyright file."""
    return _licenses(package["licenses"])


def _expression(text: str) -> License:
    """A name of the package's own (LicenseRef-…) is right within an expression, and unknown to the list."""
    known = is_expression(re.sub(r"LicenseRef-[A-Za-z0-9.-]+", "MIT", text))
    return LicenseExpression(text) if known else DisjunctiveLicense(name=text[:NAME_LIMIT])


def _licenses(names: Iterable[str]) -> list[License]:
    found: dict[str, License] = {}
    for name in names:
        known = _spdx(name)
        if known:
            found[known] = DisjunctiveLicense(id=known)
        elif name:
            found[name] = DisjunctiveLicense(name=name[:NAME_LIMIT])
    return list(found.values())


def _spdx(name: str) -> str | None:
    gnu = _GNU.fullmatch(name)
    if gnu:
        version = gnu["version"] if "." in gnu["version"] else f"{gnu['version']}.0"
        return fixup_id(f"{gnu['family']}-{version}-{'or-later' if gnu['later'] else 'only'}")
    return SPELLINGS.get(name.lower()) or fixup_id(name)
