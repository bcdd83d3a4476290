"""Heads that were read before: those of one client, and of one worker, differ in little but the length they announce.

A head that was parsed strictly once is recognised by its bytes without the digits of its length. What the parser
said of it then holds again, so that it need not be asked.
"""

from __future__ import annotations

from typing import Generic, TypeVar

_T = TypeVar("_T")

_LENGTHS = (b"\r\nContent-Length: ", b"\r\ncontent-length: ")
_LONGEST_HEAD_BYTES = 4 * 1024
_MOST_DIGITS = 9


def take_apart(data: bytes) -> tuple[bytes, bytes] | None:
    """(the head without the digits of its length, the body), where the body is here, whole, and nothing behind it."""
    end = data.find(b"\r\n\r\n", 0, _LONGEST_HEAD_BYTES)
    at = data.find(_LENGTHS[0], 0, end)
    if at < 0 and (at := data.find(_LENGTHS[1], 0, end)) < 0:
        return None
    start = at + len(_LENGTHS[0])
    stop = data.find(b"\r\n", start)
    digits = data[start:stop]
    body = data[end + 4 :]
    if not digits.isdigit() or len(digits) > _MOST_DIGITS or int(digits) != len(body):
        return None
    # No head that was ever accepted has an empty length, so the place that is empty now is unmistakable.
    return data[:start] + data[stop:end], body


class KnownHeads(Generic[_T]):
    """What was read from a head, by the head. Forgets everything when it is full: heads that matter come back."""

    __slots__ = ("_heads", "_room", "recall")

    def __init__(self, room: int) -> None:
        self._room = room
        self._heads: dict[bytes, _T] = {}
        self.recall = self._heads.get

    def remember(self, head: bytes, what: _T) -> None:
        if len(self._heads) >= self._room:
            self._heads.clear()
        if self._room:
            self._heads[head] = what

    def forget(self) -> None:
        """What was said of them no longer holds."""
        self._heads.clear()

    def close(self) -> None:
        """Know nothing from now on."""
        self._room = 0
        self._heads.clear()
