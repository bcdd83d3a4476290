"""One engine's table of fields, and what holds for a request as a whole: how many answers, how long a prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ichat.backends.request_checks.facts import ModelFacts, RefusalError
from ichat.backends.request_checks.rules import Rule, check_fields

#: Answers to one prompt, as with OpenAI; prompts in one request, answers to all of them, where `limit_n` says nothing.
MOST_CHOICES, MOST_ANSWERS, MOST_INPUTS = 128, 1024, 2048

_CHOICES = ("n", "best_of", "beam_width")
_CONTAINERS = ("sampling_params", "parameters")
#: Fields that may hold several prompts, as a list of texts or of lists.
_LISTED: tuple[type, ...] = (str, list)
_PROMPTS = ("prompt", "text", "input_ids", "input_embeds", "input", "token_ids", "messages", "tokens", "texts")
#: And those whose elements may be objects as well.
_ITEMS = ("documents", "items", "queries", "inputs", "instances", "questions", "text_1", "text_2", "data_1", "data_2")
#: What becomes a prompt: a conversation is the sum of its parts.
_CONVERSATIONS = ("messages", "input", "system", "instructions", "state")
_LISTS_OF_PROMPTS = (
    "prompt",
    "text",
    "input",
    "query",
    "queries",
    "items",
    "documents",
    "texts",
    "inputs",
    "text_1",
    "text_2",
)
_TRUNCATING = ("truncate_prompt_tokens", "truncate", "max_tokens_per_doc")

#: Where each prompt gets a vector, a score or tokens, and no text.
_WITHOUT_ANSWERS = frozenset(
    (
        *("/v1/embeddings", "/v2/embed", "/encode", "/pooling", "/classify", "/v1/classify", "/generative_scoring"),
        *("/score", "/v1/score", "/rerank", "/v1/rerank", "/v2/rerank"),
        *("/tokenize", "/v1/tokenize", "/detokenize", "/v1/detokenize"),
    )
)


@dataclass(frozen=True)
class RequestTable:
    """``rules`` are by field, for all routes: a name means the same wherever an engine takes it.

    ``whole`` are by path: what a route builds from a body as a whole. ``decode`` is a strict JSON parser, which raises
    ValueError.
    """

    facts: ModelFacts
    rules: Mapping[str, Rule]
    decode: Callable[[bytes], Any]
    whole: Mapping[str, Callable[[dict[str, Any]], None]]

    def read(self, path: str, body: bytes) -> dict[str, Any]:
        """What a body says. RefusalError: the model cannot take it."""
        try:
            document = self.decode(body)
        except (ValueError, RecursionError) as error:
            words = "nested too deep" if isinstance(error, RecursionError) else str(error)
            raise RefusalError(None, f"The body is not plain JSON: {words}.", code="invalid_body") from None
        if type(document) is not dict:
            raise RefusalError(None, "The body is not a JSON object.", code="invalid_body")
        self._check(path, document, len(body))
        return document

    def _check(self, path: str, document: dict[str, Any], size: int) -> None:
        check_fields(document, self.rules, self.facts)
        _check_counts(path, document, self.facts.limit_n)
        longest = self.facts.longest_text
        if longest is not None and size > longest and not any(document.get(name) for name in _TRUNCATING):
            _check_length(document, longest, self.facts.max_model_len)
        if (check := self.whole.get(path)) is not None:
            check(document)


def _check_counts(path: str, document: dict[str, Any], limit_n: int | None) -> None:
    field, choices = _choices(document)
    if choices > (most := limit_n or MOST_CHOICES):
        raise _too_many(field, f"{choices} answers", most, limit_n)
    field, prompts = _prompts(document)
    if path in _WITHOUT_ANSWERS:
        if prompts > MOST_INPUTS:
            raise _too_many(field, f"{prompts} inputs", MOST_INPUTS, None)
    elif prompts * max(choices, 1) > (most := limit_n or MOST_ANSWERS):
        raise _too_many(field, f"{prompts} prompts with {max(choices, 1)} answers each", most, limit_n)


def _too_many(field: str, counted: str, most: int, limit_n: int | None) -> RefusalError:
    setting = "limit_n of the model" if limit_n is not None else "the most in one request"
    return RefusalError(field, f"{counted} are more than {most} ({setting}). Send fewer.", code="limit_exceeded")


def _choices(document: dict[str, Any]) -> tuple[str, int]:
    """(field, how many answers to each prompt); what is no number is the engine's to refuse."""
    most = ("n", 1)
    for path, fields in _fields_with_choices(document):
        for name in _CHOICES:
            value = fields.get(name)
            if isinstance(value, str):
                value = int(value) if value.isdecimal() and len(value) < 20 else 1
            if isinstance(value, int | float) and value > most[1]:
                most = (path + name, int(value))
    return most


def _fields_with_choices(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "", document
    for container in _CONTAINERS:
        held = document.get(container)
        for one in held if type(held) is list else (held,):
            if type(one) is dict:
                yield f"{container}.", one
                if type(inner := one.get("sampling_params")) is dict:
                    yield f"{container}.sampling_params.", inner


def _prompts(document: dict[str, Any]) -> tuple[str, int]:
    most = ("prompt", 1)
    for names, kinds in ((_PROMPTS, _LISTED), (_ITEMS, (*_LISTED, dict))):
        for name in names:
            held: Any = document.get(name)
            if type(held) is dict:
                held = list(held.values())
            if type(held) is list and len(held) > most[1] and type(held[0]) in kinds:
                most = (name, len(held))
    return most


def _check_length(document: dict[str, Any], longest: int, max_model_len: int) -> None:
    for name, length in _lengths(document):
        if length > longest:
            words = (
                f"{length} characters cannot fit: this model's context has {max_model_len} tokens, which are {longest} "
                "characters at the very most. Shorten it."
            )
            raise RefusalError(name, words, code="context_length_exceeded")


def _lengths(document: dict[str, Any]) -> Iterator[tuple[str, int]]:
    for name in _LISTS_OF_PROMPTS:
        value = document.get(name)
        for one in value if type(value) is list else (value,):
            if type(one) is str:
                yield name, len(one)
    for name in _CONVERSATIONS:
        value = document.get(name)
        are_several = (
            type(value) is list and value and type(value[0]) in (list, str)
        )  # conversations, or texts as above
        for conversation in value if are_several and value is not None else (value,):
            yield name, _text_in(conversation)


def _text_in(value: Any) -> int:
    """Characters of the texts in a conversation; pictures and sounds are none."""
    count, stack = 0, [value]
    while stack:
        one = stack.pop()
        if type(one) is str:
            count += len(one)
        elif type(one) is list:
            stack.extend(one)
        elif type(one) is dict:
            stack.extend(one[key] for key in ("content", "text") if key in one)
    return count
