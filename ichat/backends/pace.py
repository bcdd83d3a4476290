"""How long an engine may compute without a result: what follows from its own past."""

from __future__ import annotations

#: Less than this is never held against an engine: the first request of a kind may still be set up (kernels, graphs).
_FLOOR_S = 8.0
#: A step may take so many times as long as the longest that was seen, or as its tokens would at the mean speed.
_FACTOR = 3.0
#: The warm-up request is that short, so its time for a token is far above what a long prompt needs.
_WARM_UP_TOKENS = 4


class Pace:
    """Learns from each gap between two results, in seconds of computing (``Watch.computed_s``).

    Seconds of computing, not of the clock: a machine that gives an engine a tenth of a core makes its steps ten times
    as long, and changes nothing here.
    """

    def __init__(self, warm_up_s: float = 0.0) -> None:
        self._longest_s = 0.0
        self._worked_s, self._tokens = warm_up_s, _WARM_UP_TOKENS

    def learn(self, gap_s: float) -> None:
        """The engine computed for so long, and a result came."""
        self._longest_s = max(self._longest_s, gap_s)

    def count(self, worked_s: float, tokens: int) -> None:
        """In so many seconds so many tokens of prompts and answers were computed."""
        self._worked_s += worked_s
        self._tokens += tokens

    def bound_s(self, owed_tokens: int) -> float:
        """From here on no result is not normal, when ``owed_tokens`` of prompts are in the step.

        A step of a long prompt is longer than any before it; a token of it costs less than the mean, which is that
        of answers too, one at a time.
        """
        return max(_FLOOR_S, _FACTOR * self._longest_s, _FACTOR * owed_tokens * self._worked_s / self._tokens)
