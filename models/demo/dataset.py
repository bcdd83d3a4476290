"""The questions and answers of the demo model, read from questions/*.yaml. No torch here: the tests read them too."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

QUESTIONS = Path(__file__).parent / "questions"
LANGUAGES = ("en", "zh")
#: One question of so many is kept out of the training (at least one of each topic), to measure what was learnt.
HOLD_OUT_ONE_OF = 10


@dataclass(frozen=True)
class Topic:
    """What is known about one thing in one language: every question has the same answer."""

    name: str
    language: str
    answer: str
    train: tuple[str, ...]
    held_out: tuple[str, ...]

    @property
    def questions(self) -> tuple[str, ...]:
        return self.train + self.held_out


def load(folder: Path = QUESTIONS) -> list[Topic]:
    """All topics in all languages, in the order of the files. KeyError or ValueError: a file is not as README.md says."""
    topics = []
    for path in sorted(folder.glob("*.yaml")):
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        templates = document.get("templates", {})
        for entry, language in itertools.product(document["topics"], LANGUAGES):
            topics.append(_topic(entry, language, templates.get(language, [])))
    _refuse_contradictions(topics)
    return topics


def bare(question: str) -> str:
    """The question without what people type differently: case, and punctuation at its end."""
    return question.casefold().rstrip("?？.。!！ ")


def _refuse_contradictions(topics: list[Topic]) -> None:
    asked: dict[str, Topic] = {}
    for topic in topics:
        for question in topic.questions:
            other = asked.setdefault(bare(question), topic)
            if other is not topic:
                raise ValueError(
                    f"{question!r}: asked in {other.name} ({other.language}) and in {topic.name} ({topic.language}). "
                    "Keep it in one: a question has one answer."
                )


def _topic(entry: dict[str, Any], language: str, templates: list[str]) -> Topic:
    told = entry[language]
    filled = [template.format(name=name) for name in entry.get("names", []) for template in templates]
    questions = list(dict.fromkeys([*told.get("questions", []), *filled]))
    if len(questions) < 2:
        raise ValueError(f"{entry['topic']}: {len(questions)} question(s) in {language!r}. Write at least two.")
    if odd := [text for text in [*questions, told["answer"]] if not isinstance(text, str)]:
        raise ValueError(f"{entry['topic']}: {odd[0]!r} is not text. Put it in quotes.")
    held_out = _held_out(questions)
    train = tuple(question for question in questions if question not in held_out)
    return Topic(entry["topic"], language, told["answer"], train, tuple(sorted(held_out)))


def _held_out(questions: list[str]) -> set[str]:
    # By a hash, so that nobody picks the easy ones; the first question is the usual way to ask and stays in.
    ranked = sorted(questions[1:], key=lambda question: hashlib.sha256(question.encode()).digest())
    return set(ranked[: max(1, len(questions) // HOLD_OUT_ONE_OF)])


def fingerprint(folder: Path = QUESTIONS) -> str:
    """SHA-256 over the names and contents of the question files. training.json keeps the one that was trained on."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.yaml")):
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()
