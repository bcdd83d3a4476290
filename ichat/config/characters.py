"""Characters that no setting may hold: the system refuses them in a path, a host or a variable, late and unclearly."""

from __future__ import annotations

import re
from typing import Any

# Tabs and the ends of lines may stand in a template or a certificate; a lone surrogate is a byte that is not UTF-8.
_WRONG = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_NOT_IN_A_LINE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


def wrong_character(value: Any) -> str | None:
    """What is wrong with the characters of a value and all that is in it; the value itself is not told."""
    if isinstance(value, dict):
        return next(filter(None, map(wrong_character, [*value, *value.values()])), None)
    if isinstance(value, list | tuple):
        return next(filter(None, map(wrong_character, value)), None)
    found = _WRONG.search(value) if isinstance(value, str) else None
    return _told(found[0]) if found else None


def wrong_line(text: str) -> str | None:
    """The same for what must be one line, such as a key that is sent in a header."""
    if "\n" in text:
        return "has more than one line"
    found = _NOT_IN_A_LINE.search(text)
    return _told(found[0]) if found else surrounded(text)


def surrounded(text: str) -> str | None:
    """What stands around a text that was meant without it: quotes that no shell has taken off, or blanks."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'`":
        return f"begins and ends with {text[0]}: the quotes are part of the value, take them off"
    if text != text.strip():
        return "begins or ends with a blank, which is part of the value, take it off"
    return None


def _told(character: str) -> str:
    if "\ud800" <= character <= "\udfff":
        return "has bytes that are not UTF-8"
    return f"has the control character U+{ord(character):04X}"
