"""Which requests a load is made of: drawn from a seed, so that a run can be repeated."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import orjson

from tests.history.client import Exchange
from tests.history.records import Kind, Request

_FILLER = "all work and no play makes a dull prompt "


@dataclass(frozen=True)
class Target:
    """One name to ask for, and the model that must answer."""

    model: str
    name: str
    weight: float = 1.0


@dataclass(frozen=True)
class Mix:
    """Shares are of all requests, from 0 to 1."""

    targets: tuple[Target, ...]
    sse: float = 0.5
    chat: float = 0.5
    large: float = 0.02  # bodies of up to 64 KiB
    left: float = 0.0  # clients that do not wait for the end
    leave_within_s: float = 0.05
    tokens: tuple[int, int] = (1, 4)
    body: dict[str, Any] = field(default_factory=dict)  # more that every request asks for
    sse_body: dict[str, Any] = field(default_factory=dict)  # and what those with a stream do

    @staticmethod
    def of(said: dict[str, Any]) -> Mix:
        """From JSON."""
        targets = tuple(Target(**target) for target in said["targets"])
        return Mix(**{**said, "targets": targets, "tokens": tuple(said.get("tokens", (1, 4)))})


class Dice:
    """Makes one request after the other; their ids are the prefix and a number."""

    def __init__(self, prefix: str, seed: int) -> None:
        self._prefix, self._random = prefix, random.Random(seed)
        self.made = 0

    def wait_s(self, rate: float) -> float:
        """Until the next arrival of a Poisson process."""
        return self._random.expovariate(rate)

    def request(self, mix: Mix, due: float) -> Exchange:
        dice = self._random
        target = dice.choices(mix.targets, [target.weight for target in mix.targets])[0]
        kind: Kind = "sse" if dice.random() < mix.sse else "plain"
        request = Request(
            id=f"{self._prefix}-{self.made}", model=target.model, name=target.name, kind=kind,
            asked_tokens=dice.randint(*mix.tokens), t_due=due,
        )  # fmt: skip
        self.made += 1
        leave_after_s = dice.uniform(0, mix.leave_within_s) if dice.random() < mix.left else None
        return Exchange(request, self._bytes(request, mix), leave_after_s)

    def _bytes(self, request: Request, mix: Mix) -> bytes:
        dice = self._random
        prompt = f"This is {request.id}. "
        if dice.random() < mix.large:
            prompt += _FILLER * dice.randint(1, 64 * 1024 // len(_FILLER))
        asked: dict[str, Any] = {
            "model": request.name, "user": request.id, "max_tokens": request.asked_tokens, **mix.body,
        }  # fmt: skip
        if request.kind == "sse":
            asked |= {"stream": True, **mix.sse_body}
        if dice.random() < mix.chat:
            path, asked["messages"] = "/v1/chat/completions", [{"role": "user", "content": prompt}]
        else:
            path, asked["prompt"] = "/v1/completions", prompt
        body = orjson.dumps(asked)
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body
