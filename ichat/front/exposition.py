"""Several expositions in Prometheus' text form made one, a slice at a time: one may have megabytes."""

from __future__ import annotations

import re
from collections.abc import Iterator

#: A third of a millisecond's work, so that no stream waits longer for it.
_SLICE_BYTES = 16 * 1024

_NAME = rb"[a-zA-Z_:][a-zA-Z0-9_:]*+"
_meta = re.compile(rb"#[ \t]+(HELP|TYPE)[ \t]+(%b)[ \t]+(.*)" % _NAME).fullmatch
#: Name, labels, value with its timestamp. An exemplar, which this form does not know, may follow.
_sample = re.compile(
    rb"(%b)[ \t]*+(?:\{((?:[^\"{}]++|\"(?:[^\"\\]++|\\.)*+\")*+)\})?+[ \t]*+"
    rb"([0-9+\-.eEInfNa]++(?:[ \t]++-?[0-9]++)?+)[ \t]*+(?:#.*)?" % _NAME
).fullmatch

#: What a sample's name may have behind that of its family.
_SUFFIXES = {
    b"counter": (b"_total", b"_created"),
    b"histogram": (b"_bucket", b"_sum", b"_count", b"_created"),
    b"summary": (b"_sum", b"_count", b"_created"),
}


class _Family:
    __slots__ = ("chunks", "kind", "name", "notes")

    def __init__(self, name: bytes) -> None:
        self.name, self.kind = name, b""
        self.notes: dict[bytes, bytes] = {}  # HELP and TYPE: once each, whoever said it first
        self.chunks: list[bytes] = []

    def has(self, sample: bytes) -> bool:
        if not sample.startswith(self.name):
            return False
        suffix = sample[len(self.name) :]
        return not suffix or suffix in _SUFFIXES.get(self.kind, ())


class Exposition:
    """What was added so far, as one: families of one name stand together, each explained once.

    A line that is no sample is left out, so that one writer's mistake does not cost the whole answer.
    """

    __slots__ = ("_families", "_slices")

    def __init__(self) -> None:
        self._families: dict[bytes, _Family] = {}
        self._slices: list[Iterator[None]] = []

    def add(self, text: bytes, labels: bytes = b"") -> None:
        """``labels`` (``a="b",c="d"``) are put before those that a sample has."""
        self._slices.append(self._take(text, labels))

    def step(self) -> bool:
        """One slice of what is left; True when there is nothing."""
        while self._slices:
            try:
                next(self._slices[0])
            except StopIteration:
                self._slices.pop(0)
            else:
                return False
        return True

    def parts(self) -> list[bytes]:
        """The whole text, in pieces."""
        found: list[bytes] = []
        for family in self._families.values():
            if family.chunks:
                found += (family.notes[word] for word in (b"HELP", b"TYPE") if word in family.notes)
                found += family.chunks
        return found

    # ---- one text -----------------------------------------------------------------------------------------

    def _take(self, text: bytes, labels: bytes) -> Iterator[None]:
        at, family = 0, _Family(b"")
        while at < len(text):
            end = text.find(b"\n", at + _SLICE_BYTES) + 1 or len(text)
            family = self._take_lines(text[at:end], labels, family)
            at = end
            yield

    def _take_lines(self, lines: bytes, labels: bytes, family: _Family) -> _Family:
        """``family`` is that of the line before; returns that of the last one."""
        chunk: list[bytes] = []
        for raw in lines.split(b"\n"):
            line = raw.strip()
            if (match := _sample(line)) is not None:
                following = self._family_of(match[1], family)
            elif line.startswith(b"#"):
                following = self._note(line, family)
            else:
                continue
            if following is not family:
                _keep(family, chunk)
                family = following
            if match is not None:
                chunk.append(_labelled(match, labels))
        _keep(family, chunk)
        return family

    def _note(self, line: bytes, family: _Family) -> _Family:
        if (match := _meta(line)) is None:
            return family
        word, name, words = match.groups()
        noted = self._open(name)
        noted.notes.setdefault(word, line + b"\n")
        if word == b"TYPE" and not noted.kind:
            noted.kind = words
        return noted

    def _family_of(self, sample: bytes, family: _Family) -> _Family:
        if family.has(sample):
            return family
        if (known := self._families.get(sample)) is not None:
            return known
        base, underscore, _ = sample.rpartition(b"_")
        if underscore and (known := self._families.get(base)) is not None and known.has(sample):
            return known
        return self._open(sample)

    def _open(self, name: bytes) -> _Family:
        if (known := self._families.get(name)) is None:
            known = self._families[name] = _Family(name)
        return known


def _keep(family: _Family, chunk: list[bytes]) -> None:
    if chunk:
        family.chunks.append(b"".join(chunk))
        chunk.clear()


def _labelled(match: re.Match[bytes], labels: bytes) -> bytes:
    name, theirs, value = match.groups()
    comma = b"," if labels and theirs else b""
    if not labels and not theirs:
        return b"%b %b\n" % (name, value)
    return b"%b{%b%b%b} %b\n" % (name, labels, comma, theirs or b"", value)
