"""Asks the package registry which wheels there are and what each needs, without downloading any of them."""

import io
import json
import ssl
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser
from functools import cached_property
from html.parser import HTMLParser
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

JSON, HTML = "application/vnd.pypi.simple.v1+json", "text/html"
#: What the end of a wheel is read in; its table of contents and METADATA stand there.
_CHUNK_BYTES = 256 * 1024
_TIMEOUT_S = 60


class RegistryError(Exception):
    """The registry cannot answer; the words say which question."""


@dataclass(frozen=True)
class Wheel:
    name: str
    version: Version
    url: str
    has_metadata: bool  # beside the wheel (PEP 658)
    platform: str

    @property
    def is_for_us(self) -> bool:
        return self.platform == "any" or (self.platform.startswith("manylinux") and self.platform.endswith("x86_64"))


@dataclass(frozen=True)
class Metadata:
    requires: tuple[Requirement, ...]
    python: SpecifierSet

    def asked(self, name: str) -> SpecifierSet | None:
        """Which versions of a package it wants on Linux, x86_64, without extras; None if it does not want it."""
        found = [each.specifier for each in self.requires if canonicalize_name(each.name) == name and _holds(each)]
        return SpecifierSet(",".join(str(each) for each in found)) if found else None


def _holds(requirement: Requirement) -> bool:
    here = {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64", "extra": ""}
    return requirement.marker is None or requirement.marker.evaluate(here)


class Registry:
    """One index, as pip's settings name it."""

    def __init__(self, index: str, certificates: str | None = None) -> None:
        self._index = index.rstrip("/")
        self._context = ssl.create_default_context(cafile=certificates) if certificates else None
        self._wheels: dict[str, list[Wheel]] = {}

    def wheels(self, package: str) -> list[Wheel]:
        """Those for this platform that are not withdrawn, the oldest first; none of a package that is not there."""
        if package not in self._wheels:
            self._wheels[package] = sorted(self._list(package), key=lambda wheel: (wheel.version, wheel.url))
        return self._wheels[package]

    def wheel(self, package: str, version: str | Version) -> Wheel | None:
        wanted = Version(str(version))
        return next((each for each in reversed(self.wheels(package)) if each.version == wanted), None)

    def versions(self, package: str) -> list[Version]:
        """Releases, the oldest first."""
        return sorted({wheel.version for wheel in self.wheels(package) if not wheel.version.is_prerelease})

    def metadata(self, wheel: Wheel) -> Metadata:
        if wheel.has_metadata:
            text = self._open(f"{wheel.url}.metadata").read().decode()
        else:
            archive = self._archive(wheel)
            name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
            text = archive.read(name).decode()
        return _read_metadata(text)

    def size_bytes(self, wheel: Wheel) -> int:
        """What it takes on the disk."""
        return sum(entry.file_size for entry in self._archive(wheel).infolist())

    def all_metadata(self, wheels: Iterable[Wheel]) -> dict[Wheel, Metadata]:
        """Of many, a few at a time."""
        asked = list(wheels)
        with ThreadPoolExecutor(12) as pool:
            return dict(zip(asked, pool.map(self.metadata, asked), strict=True))

    def _archive(self, wheel: Wheel) -> zipfile.ZipFile:
        return zipfile.ZipFile(io.BufferedReader(_Ranges(self, wheel.url), _CHUNK_BYTES))

    def _list(self, package: str) -> list[Wheel]:
        try:
            answer = self._open(f"{self._index}/{package}/", Accept=f"{JSON}, {HTML};q=0.1")
        except RegistryError as error:
            if isinstance(error.__cause__, urllib.error.HTTPError) and error.__cause__.code == 404:
                return []
            raise
        body = answer.read()
        if answer.headers.get_content_type() == JSON:
            entries = json.loads(body)["files"]
        else:
            page = _Page(answer.url)
            page.feed(body.decode())
            entries = page.entries
        found = (_wheel(entry) for entry in entries if not entry.get("yanked"))
        return [wheel for wheel in found if wheel is not None and wheel.is_for_us]

    def _open(self, url: str, **headers: str) -> Any:
        request = urllib.request.Request(url, headers=headers)
        try:
            return urllib.request.urlopen(request, timeout=_TIMEOUT_S, context=self._context)
        except OSError as error:
            raise RegistryError(f"{url}: {error}. Check the index-url of pip's settings, and the network.") from error


class _Ranges(io.RawIOBase):
    """A file of the registry of which only the parts are fetched that are read."""

    def __init__(self, registry: Registry, url: str) -> None:
        self._registry, self._url, self._at = registry, url, 0

    @cached_property
    def _end(self) -> tuple[int, bytes]:
        """The size of the whole, and its last part: one question brings all that most wheels are asked for."""
        answer = self._part(f"bytes=-{_CHUNK_BYTES}")
        return int(answer.headers["Content-Range"].rpartition("/")[2]), answer.read()

    @property
    def _size(self) -> int:
        return self._end[0]

    def _part(self, wanted: str) -> Any:
        answer = self._registry._open(self._url, Range=wanted)
        if answer.status != 206:
            answer.close()
            raise RegistryError(f"{self._url}: the registry sends whole files only. Use one that answers ranges.")
        return answer

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = (0, self._at, self._size)[whence] + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), self._size - self._at)
        if length <= 0:
            return 0
        data = self._read(self._at, length)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _read(self, at: int, length: int) -> bytes:
        size, end = self._end
        begin = size - len(end)
        if at >= begin:
            return end[at - begin : at - begin + length]
        read: bytes = self._part(f"bytes={at}-{min(at + length, begin) - 1}").read()
        return read


class _Page(HTMLParser):
    """The list of files as registries wrote it before JSON."""

    def __init__(self, base: str) -> None:
        super().__init__()
        self._base = base
        self.entries: list[dict[str, Any]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "a" and (link := given.get("href")):
            url = urldefrag(urljoin(self._base, link)).url
            has_metadata = "data-core-metadata" in given or "data-dist-info-metadata" in given
            self.entries.append(
                {"url": url, "filename": unquote(url.rpartition("/")[2]), "core-metadata": has_metadata,
                 "yanked": "data-yanked" in given}
            )  # fmt: skip


def _wheel(entry: dict[str, Any]) -> Wheel | None:
    try:
        name, version, _, tags = parse_wheel_filename(entry["filename"])
    except InvalidWheelFilename:
        return None
    platforms = sorted(tag.platform for tag in tags)
    ours = next((each for each in platforms if each.startswith("manylinux") and each.endswith("x86_64")), platforms[0])
    has_metadata = bool(entry.get("core-metadata") or entry.get("data-dist-info-metadata"))
    return Wheel(name, version, entry["url"], has_metadata, ours)


def _read_metadata(text: str) -> Metadata:
    message: Message = Parser().parsestr(text, headersonly=True)
    requires = tuple(Requirement(line) for line in message.get_all("Requires-Dist") or ())
    return Metadata(requires, SpecifierSet(str(message.get("Requires-Python") or "")))
