"""What a check must know of the loaded model, and how it refuses."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelFacts:
    """``longest_text``: no prompt of more characters can fit, whatever it says; None: that is not to be told."""

    vocab_size: int
    max_model_len: int
    longest_text: int | None = None
    hidden_size: int = 2**31 - 1
    max_logprobs: int = 20
    limit_n: int | None = None
    copies: int = 1  # data-parallel ones, which a request may choose from


class RefusalError(Exception):
    """Tells the client which field is wrong, as it was typed, why, and what to do."""

    def __init__(self, field: str | None, words: str, code: str = "invalid_value") -> None:
        super().__init__(f"{field}: {words}" if field else words)
        self.field, self.code = field, code


def shown(value: object) -> str:
    """The value for a sentence, cut where it is long."""
    text = str(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
