"""From questions and answers to conversations as tokens, rendered exactly as the engines will render them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from dataset import Topic
from transformers import PreTrainedTokenizerFast
from variations import SYSTEM_PROMPTS, vary

BATCH = 64
PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
IGNORED = -100  # the label of a token that carries no loss

Ids = list[int]


@dataclass(frozen=True)
class Sample:
    """Token ids and, of equal length, the labels: the answer's ids, IGNORED elsewhere."""

    ids: Ids
    labels: Ids


class Encoder:
    """Turns conversations into samples, exactly as the engines will render them."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer

    def chat(self, turns: list[tuple[str, str]], system: str | None = None) -> Sample:
        messages = [{"role": "system", "content": system}] if system else []
        ids: Ids = []
        labels: Ids = []
        for question, answer in turns:
            messages.append({"role": "user", "content": question})
            prompt = self._render(messages, add_generation_prompt=True)[len(ids) :]
            messages.append({"role": "assistant", "content": answer})
            said = self._render(messages)[len(ids) + len(prompt) :]
            ids += prompt + said
            labels += [IGNORED] * len(prompt) + said[:-1] + [IGNORED]  # the newline after <|im_end|> is never sampled
        return Sample(ids, labels)

    def raw(self, question: str, answer: str) -> Sample:
        """For /v1/completions: the question alone, without the chat format, is answered on the next line."""
        asked, said = self._encode(question), self._encode("\n" + answer + END)
        return Sample(asked + said, [IGNORED] * len(asked) + said)

    def _render(self, messages: list[dict[str, str]], *, add_generation_prompt: bool = False) -> Ids:
        text = self._tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=add_generation_prompt
        )
        return self._encode(text)

    def _encode(self, text: str) -> Ids:
        return self._tokenizer.encode(text, add_special_tokens=False)


class Deck:
    """Draws training conversations: every topic as often as another, those with very many questions more often."""

    def __init__(self, topics: list[Topic], encoder: Encoder, dice: random.Random) -> None:
        self._topics, self._encoder, self._dice = topics, encoder, dice
        self._weights = [max(1.0, len(topic.train) / 10) for topic in topics]

    def batches(self) -> Iterator[list[Sample]]:
        """Without end. Samples of like length go together, which saves more than half of the computing."""
        while True:
            drawn = sorted((self._draw() for _ in range(BATCH * 16)), key=lambda sample: len(sample.ids))
            batches = [drawn[start : start + BATCH] for start in range(0, len(drawn), BATCH)]
            self._dice.shuffle(batches)
            yield from batches

    def _draw(self) -> Sample:
        kind = self._dice.random()
        if kind < 0.1:
            return self._encoder.raw(*self._turn(exact=kind < 0.05))
        if kind < 0.65:
            return self._encoder.chat([self._turn(exact=kind < 0.35)])
        if kind < 0.85:
            return self._encoder.chat([self._turn(exact=kind < 0.75)], system=self._dice.choice(SYSTEM_PROMPTS))
        turns = [self._turn(exact=self._dice.random() < 0.5) for _ in range(2)]
        return self._encoder.chat(turns, system=self._dice.choice((None, *SYSTEM_PROMPTS)) if kind < 0.92 else None)

    def _turn(self, *, exact: bool) -> tuple[str, str]:
        (topic,) = self._dice.choices(self._topics, self._weights)
        # The first question is the usual way to ask, and what tests assert.
        question = topic.train[0] if self._dice.random() < 0.15 else self._dice.choice(topic.train)
        return (question if exact else vary(question, topic.language, self._dice)), topic.answer


def collate(samples: list[Sample], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Padded on the right: causal attention never looks there, so no mask is needed."""
    width = max(len(sample.ids) for sample in samples)
    ids = torch.tensor([sample.ids + [pad] * (width - len(sample.ids)) for sample in samples])
    labels = torch.tensor([sample.labels + [IGNORED] * (width - len(sample.labels)) for sample in samples])
    return ids, labels
