"""Odd requests, made from the fields of an engine's routes and the edges of their types, sent beside a normal client."""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

MESSAGES = [{"role": "user", "content": "hi"}]
#: A plain request of each route, as quick as it can be.
PLAIN: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "hi", "max_tokens": 2},
    "/v1/chat/completions": {"messages": MESSAGES, "max_tokens": 2},
    "/v1/chat/completions/batch": {"messages": [MESSAGES, MESSAGES], "max_tokens": 2},
    "/v1/responses": {"input": "hi", "max_output_tokens": 2},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 2},
    "/generate": {"text": "hi", "sampling_params": {"max_new_tokens": 2}},
    "/vertex_generate": {"instances": [{"text": "hi"}], "parameters": {"sampling_params": {"max_new_tokens": 2}}},
    "/v1/embeddings": {"input": "hi"},
    "/tokenize": {"prompt": "hi"},
    "/detokenize": {"tokens": [5]},
}
#: Requests that ended an engine or stalled it once.
KNOWN: list[tuple[str, dict[str, Any]]] = [
    *(("/v1/completions", {"prompt": prompt}) for prompt in ([99999999], [-1], [[1], [-1]], [1.5], ["a", 1], [True])),
    *(("/v1/completions", {name: 1000000}) for name in ("logprobs", "n", "best_of", "prompt_logprobs")),
    ("/v1/completions", {"prompt": ["a"] * 5000}),
    ("/v1/completions", {"prompt": "x " * (1 << 21)}),
    ("/v1/completions", {"stop_token_ids": [-1], "min_tokens": 1}),
    ("/v1/completions", {"top_k": 2**40}),
    ("/v1/completions", {"repetition_penalty": 1e-300}),
    ("/v1/completions", {"logit_bias": {"5": 1e300}}),
    ("/v1/completions", {"ebnf": "root ::= root", "structured_outputs": {"grammar": "root ::= root"}}),
    ("/v1/completions", {"stop": "x" * 1_000_000}),
    ("/v1/chat/completions", {"logprobs": True, "top_logprobs": 1000000}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x " * (1 << 22)}]}),
    ("/v1/chat/completions", {"chat_template_kwargs": {"tokenize": "x", "chat_template": "{{ 1 }}"}}),
    ("/v1/chat/completions/batch", {"messages": [MESSAGES] * 5000}),
    ("/tokenize", {"prompt": "x " * (1 << 22)}),
    ("/detokenize", {"tokens": [10**9]}),
    *(
        ("/generate", {"return_logprob": True, **fields})
        for fields in (
            {"input_ids": [99999999], "text": None}, {"input_ids": [-5], "text": None}, {"top_logprobs_num": 1000000},
            {"custom_labels": {"a": "b"}}, {"positional_embed_overrides": [[1]]}, {"token_ids_logprob": [10**9]},
            {"input_embeds": [[1.0]], "text": None}, {"input_ids": []}, {"input_ids": [[]], "text": None},
            {"return_hidden_states": []}, {"positional_embed_overrides": -0.0}, {"http_worker_ipc": "ipc:///tmp/x"}, {"logprob_start_len": -7},
            {"rid": "HEALTH_CHECK_1"}, {"session_params": {"id": 5, "nope": 1}}, {"text": ["a"] * 5000},
        )
    ),
    *(
        ("/generate", {"sampling_params": {"max_new_tokens": 12} | fields})
        for fields in (
            {"max_new_tokens": 2.5}, {"json_schema": {"type": "object"}}, {"stop": [["a"]]}, {"stop": 5}, {"n": [1]},
            {"temperature": "x"}, {"min_new_tokens": "5"}, {"stop_regex": 5}, {"n": 5000}, {"nope": 1},
            {"ignore_eos": True, "is_normalized": True, "stop_strs": [], "stop_regex_strs": ["(?:.|\\S|\\s)*\\x00"]},
            {"custom_params": {"thinking_budget": "x"}}, {"logit_bias": {"x": 1}}, {"logit_bias": {"99999999": 1}},
        )
    ),
]  # fmt: skip
_SCHEMAS = (
    {"$ref": "#"}, {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    {"anyOf": [{"$ref": "#"}]}, {"type": "array", "minItems": 100000000}, {"type": "string", "maxLength": 10**9},
    {"type": "string", "pattern": "\\p{L}+"}, {"type": "string", "pattern": "(a{1,1000}){1,1000}"},
    {"type": "object", "patternProperties": {"a": {}}}, {"type": "object", "properties": {"a": False}}, {}, False,
    {"type": "array", "items": {"type": "array", "items": {"type": "array", "items": {"type": "integer"}, "minItems": 100},
     "minItems": 100}, "minItems": 100}, {"type": "nope"}, {"enum": []}, {"const": None}, {"type": ["string", "null"]},
    {"type": "object", "minProperties": 10**7}, {"type": "integer", "minimum": 10**30}, {"not": {}},
)  # fmt: skip
KNOWN += [
    (
        "/v1/chat/completions",
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}},
    )
    for schema in _SCHEMAS
]
_NUMBERS = (
    *(
        -1,
        0,
        1,
        2,
        -2,
        5,
        20,
        21,
        127,
        128,
        129,
        1024,
        2048,
        3071,
        3072,
        2**31 - 1,
        2**31,
        2**32,
        2**63 - 1,
        2**63,
        2**64,
    ),
    *(10**30, -(2**31), -(2**63), -(10**30), 0.5, 1.0, 2.5, -0.0, 1e-300, 1e300, -1e300, 1e-7),
)
_TEXTS = (
    "", "x", "5", "-1", "2.5", "1e9", "nan", "null", "auto", "last", "\x00", "é", "😀" * 40, "x" * 300, "a b " * 3000, "[1]",
    "{}", "{", "HEALTH_CHECK_1", "/etc/passwd", "http://127.0.0.1:9/x", "root ::= root", "root ::= [a-z]{1,9}", "(a|b)*c", "(",
)  # fmt: skip
_OBJECTS = (
    {},
    {"a": 1},
    {"0": 1.0},
    {"99999": 1},
    {"-1": 0},
    {"a": {"b": [1]}},
    {"5": 1e300},
    {"type": "json_object"},
    {"id": 5},
    {"": None},
)
_LISTS = ([], [[]], [0], [-1], [3072], [10**30], [1.5], ["a"], [["a"]], [None], [1, "a"], [[1], [2]], [[1], [-1]], [{}],
          [1] * 3000, ["a"] * 3000, [True], ["x" * 5000] * 3, [[[1]]], [[0.5] * 3])  # fmt: skip
_SWITCHES = (True, False, None)
_OF_KIND: dict[str, tuple[Any, ...]] = {
    "int": _NUMBERS, "float": _NUMBERS, "str": _TEXTS, "bool": _SWITCHES, "list": _LISTS, "dict": _OBJECTS, "model": _OBJECTS,
}  # fmt: skip
_ANY = (*_NUMBERS, *_TEXTS, *_SWITCHES, *_LISTS, *_OBJECTS)
#: The fields whose values are schemas or hold them.
_CONSTRAINTS = (
    "response_format",
    "structured_outputs",
    "json_schema",
    "regex",
    "ebnf",
    "structural_tag",
    "tools",
    "text",
)


class OddRequests:
    """Repeatable: the same seed makes the same ones. ``fields`` are by route, as ``request_fields.py`` finds them."""

    def __init__(self, fields: dict[str, dict[str, list[str]]], seed: int) -> None:
        self._fields, self._random = fields, random.Random(seed)

    def known(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for path, changes in KNOWN:
            if path in self._fields:
                yield path, {"model": "demo", **PLAIN[path], **changes}

    def of(self, path: str, count: int) -> Iterator[tuple[str, dict[str, Any]]]:
        for _ in range(count):
            body = {"model": "demo", **PLAIN[path]}
            for _ in range(self._random.choice((1, 1, 2, 3))):
                self._change(body, self._fields[path])
            yield path, body

    def _change(self, body: dict[str, Any], fields: dict[str, list[str]]) -> None:
        name = self._random.choice([*(name for name in fields if name != "model"), "unheard_of"])
        if name == "sampling_params" and "sampling_params" in self._fields and self._random.random() < 0.9:
            inner = dict(body.get(name) or {"max_new_tokens": 2})
            self._change(inner, self._fields["sampling_params"])
            body[name] = inner if self._random.random() < 0.9 else [inner]
        else:
            body[name] = self._value(name, fields.get(name, ()))

    def _value(self, name: str, kinds: Any) -> Any:
        chance = self._random.random()
        if name in _CONSTRAINTS and chance < 0.6:
            return self._constraint()
        known = [kind for kind in kinds if kind in _OF_KIND]
        if known and chance < 0.75:
            value = self._random.choice(_OF_KIND[self._random.choice(known)])
        else:
            value = self._random.choice(_ANY)
        return [value] * self._random.choice((1, 3)) if chance > 0.95 else value

    def _constraint(self) -> Any:
        schema = self._random.choice(_SCHEMAS)
        return self._random.choice(
            (
                {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
                {"json": schema}, {"regex": "(a|b){1,30}c?"}, {"regex": "\\p{L}"}, {"choice": ["a", 5]}, {"grammar": "root ::= root"},
                json.dumps(schema), schema,
                [{"type": "function", "function": {"name": "f", "parameters": schema}}],
                {"format": {"type": "json_schema", "name": "x", "schema": schema}},
            )
        )  # fmt: skip


class Fuzz:
    """Sends requests, some at a time, while another client asks small ones; keeps what came back."""

    def __init__(self, port: int, headers: dict[str, str], limit_s: float = 20) -> None:
        self._port, self._limit_s = port, limit_s
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.statuses: Counter[int] = Counter()
        self.failures: list[tuple[int, str, str]] = []  # 5xx and no answer at all
        self.slowest: list[tuple[float, str]] = []  # what might have kept the other client waiting
        self.calm_s: list[float] = []  # the other client's
        self.calm_failures: list[int] = []

    async def run(self, requests: Iterator[tuple[str, dict[str, Any]]], at_once: int = 4) -> None:
        over = asyncio.Event()
        calm = asyncio.create_task(self._ask_calmly(over))
        await asyncio.gather(*(self._send_all(requests) for _ in range(at_once)))
        over.set()
        await calm

    async def _send_all(self, requests: Iterator[tuple[str, dict[str, Any]]]) -> None:
        for path, body in requests:
            text = json.dumps(body)
            sent_at = time.monotonic()
            status, answer = await self._post(path, text.encode())
            self.statuses[status] += 1
            self.slowest = sorted([*self.slowest, (time.monotonic() - sent_at, f"{path} {text[:300]}")])[-8:]
            if status >= 500 or status == 0:
                self.failures.append((status, f"{path} {text[:300]}", answer.decode(errors="replace")[:300]))

    async def _ask_calmly(self, over: asyncio.Event) -> None:
        body = json.dumps({"model": "demo", "prompt": "Hi", "max_tokens": 1, "temperature": 0}).encode()
        while not over.is_set():
            asked_at = time.monotonic()
            status, _ = await self._post("/v1/completions", body)
            self.calm_s.append(time.monotonic() - asked_at)
            if status != 200:
                self.calm_failures.append(status)
            await asyncio.sleep(0.05)

    async def _post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """(status, answer); status 0: the connection broke, 1: the client lost patience, and left."""
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{self._headers}Content-Length: {len(body)}\r\n\r\n"
        writer = None
        try:
            async with asyncio.timeout(self._limit_s):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                writer.write(head.encode() + body)
                answer = await reader.read()
                return int(answer[9:12]), answer.partition(b"\r\n\r\n")[2]
        except TimeoutError:
            return 1, b""
        except (OSError, ValueError) as error:
            return 0, repr(error).encode()
        finally:
            if writer is not None:
                writer.close()

    def p99_s(self) -> float:
        return sorted(self.calm_s)[math.ceil(len(self.calm_s) * 0.99) - 1]
