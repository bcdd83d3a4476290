"""How people really type a question: other case and punctuation, politeness, slips of the finger, a system prompt."""

from __future__ import annotations

import random
import re

SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a helpful assistant. Answer briefly.",
    "Answer in one sentence.",
    "You are the demo model of ichat.",
    "You are a friendly assistant for operators.",
    "Be concise.",
    "Answer truthfully.",
    "You are an expert for inference servers.",
    "你是一个有用的助手。",
    "请简短回答。",
    "你是 ichat 的演示模型。",
    "请用一句话回答。",
)
_BEFORE = {
    "en": (
        "Please tell me: ",
        "Hi, ",
        "Hello! ",
        "Hey, ",
        "Can you tell me: ",
        "Quick question: ",
        "I have a question. ",
        "please, ",
    ),
    "zh": ("请问，", "请问", "你好，", "想问一下，", "请告诉我：", "麻烦问一下，"),
}
_AFTER = {"en": (" Thanks.", " please", " Thank you!", " in ichat", " for ichat"), "zh": ("谢谢", "谢谢！", " 谢谢。")}
_END = re.compile(r"[?？.。!！]+$")
_OTHER_END = {"en": ("", "", "?", "??", ".", "!", " ?"), "zh": ("", "", "？", "?", "。", "呢？", "？？")}
_SMALL_WORD = re.compile(r"\b(the|a|an|do|does|is) ", re.IGNORECASE)
_IDENTIFIER = re.compile(r"[A-Za-z]*[_/-][\w/.-]*|\d+")


def vary(question: str, language: str, dice: random.Random) -> str:
    """The question as it might be typed as well. The names of settings, routes and codes in it stay readable."""
    text = question
    if dice.random() < 0.6:
        text = _END.sub("", text) + dice.choice(_OTHER_END[language])
    if dice.random() < 0.4:
        text = _recase(text, dice)
    if language == "en" and dice.random() < 0.1:
        text = _SMALL_WORD.sub("", text, count=1)
    if language == "zh" and dice.random() < 0.3:
        text = re.sub(r"(?<=[一-鿿]) | (?=[一-鿿])", "", text)
    if len(text) > 12 and dice.random() < 0.12:
        text = _slip(text, dice)
    if len(text) > 12 and dice.random() < 0.12:
        text = dice.choice(_BEFORE[language]) + text
    elif len(text) > 12 and dice.random() < 0.06:
        text = text + dice.choice(_AFTER[language])
    return text or question


def _recase(text: str, dice: random.Random) -> str:
    ways = (str.lower, str.lower, str.upper, lambda t: t[:1].lower() + t[1:], lambda t: t[:1].upper() + t[1:])
    return dice.choice(ways)(text)


def _slip(text: str, dice: random.Random) -> str:
    """One letter lost, doubled or swapped with the next, but not in an identifier: there a letter changes the meaning."""
    names = [match.span() for match in _IDENTIFIER.finditer(text)]
    at = dice.randrange(1, len(text) - 1)
    if any(start <= at + 1 and at <= end for start, end in names):
        return text
    return dice.choice(
        (
            text[:at] + text[at + 1 :],
            text[:at] + text[at] + text[at:],
            text[:at] + text[at + 1] + text[at] + text[at + 2 :],
        )
    )
