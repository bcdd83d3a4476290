"""Which known word somebody meant: the one that is the fewest slips of the finger away."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word closest to ``word``, or None when nothing is close enough to be worth naming."""
    from difflib import SequenceMatcher, get_close_matches  # only somebody who mistyped pays for this import

    close = get_close_matches(word, list(known), n=8, cutoff=0.6)
    if not close:
        return None
    return min(close, key=lambda k: (slips(word, k), -SequenceMatcher(None, word, k).ratio(), k))


def slips(a: str, b: str) -> int:
    """Insertions, deletions, replacements and swaps of neighbours that turn ``a`` into ``b``."""
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, before, row = before, row, [i]
        for j, y in enumerate(b, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                cost = min(cost, last[j - 2] + 1)
            row.append(cost)
    return row[-1]
