"""Whether bytes pass as they were sent: on every route of the allow-list, in both directions."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.front.scripted_worker import MODEL, response
from benchmarks.front.witness import Answer, Asker, Behaviour, Connection, Request, Witness
from ichat.front.routes import Route, known_routes

_BOUNDARY = "fr0nt"
#: The last is far beyond what the front parses as a whole.
_SIZES = (0, 300, 20_000, 3_000_000)


@dataclass(frozen=True)
class Sample:
    """A request in pieces, and what must arrive of it; the answer that the worker gives."""

    target: bytes
    body: bytes
    pieces: list[bytes]
    answer: bytes
    raw_answer: bytes


def samples(seed: int = 1) -> Iterator[Sample]:
    """Every route with every method but OPTIONS, with bodies of all sizes that no parser would write this way."""
    chance = random.Random(seed)
    for route in known_routes():
        target = route.name.replace("{id}", "resp_1-a").encode()
        for method in route.methods:
            if method != b"OPTIONS":
                for size in _SIZES if route.body != "none" else (0,):
                    yield _sample(method, target, _body(route, size, chance), route, chance)


def _body(route: Route, size: int, chance: random.Random) -> bytes:
    if route.body == "json":
        return _odd_json(size, chance)
    return _form(size, chance) if route.body == "form" else b""


def _odd_json(size: int, chance: random.Random) -> bytes:
    """Valid, with what gets lost when it is parsed and written anew: spaces, order, escapes, numbers, doubles."""
    filler = "".join(chance.choices("abc \\u00e9\\n\\/ü€😀", k=0)) + chance.choice(["\\u00e9\\/", "é€😀", "\\n\\t"]) * (
        size // 8
    )
    unknown = chance.choice(['"zz":1.0e+2', '"zz" : 12345678901234567890123', '"zz":-0.0,"zz":[ ]', '"reasoning":{ }'])
    space = chance.choice(["", " ", "\n\t"])
    text = (
        f'{space}{{"messages":[{{"role":"tutor",{space}"content":"{filler}"}}],{space}{unknown},'
        f'"model"{space}:"{MODEL}","structured_outputs":null{space}}}{space}'
    )
    return text.encode()


def _form(size: int, chance: random.Random) -> bytes:
    parts = [
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="model"\r\n\r\n{MODEL}\r\n'.encode(),
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n'
        "Content-Type: audio/wav\r\n\r\n".encode()
        + chance.randbytes(size)
        + b"\r\n",
    ]
    chance.shuffle(parts)
    return b"".join(parts) + f"--{_BOUNDARY}--\r\n".encode()


def _sample(method: bytes, target: bytes, body: bytes, route: Route, chance: random.Random) -> Sample:
    target += chance.choice([b"", b"?a=%20&a=b%2Fc"])
    kind = f"multipart/form-data; boundary={_BOUNDARY}" if route.body == "form" else "application/json"
    is_chunked = bool(body) and chance.random() < 0.3
    framing = "Transfer-Encoding: chunked" if is_chunked else f"Content-Length: {len(body)}"
    head = b"%b %b HTTP/1.1\r\nHost: front\r\n" % (method, target)
    if body:
        head += f"Content-Type: {kind}\r\n{framing}\r\n".encode()
    sent = head + b"\r\n" + (_chunked(body, chance) if is_chunked else body)
    answer = chance.randbytes(chance.choice([1, 1000, 100_000]))
    raw = _chunked_response(answer, chance) if chance.random() < 0.5 else response(answer, 200, "application/x-odd")
    return Sample(target, body, _pieces(sent, chance), answer, raw)


def _pieces(data: bytes, chance: random.Random) -> list[bytes]:
    """In up to three pieces, cut anywhere."""
    cuts = sorted(chance.randrange(len(data)) for _ in range(2))
    return [piece for piece in (data[: cuts[0]], data[cuts[0] : cuts[1]], data[cuts[1] :]) if piece]


def _chunked(data: bytes, chance: random.Random) -> bytes:
    chunks, at = [], 0
    while at < len(data):
        piece = data[at : at + chance.choice([1, 100, 50_000])]
        chunks.append(b"%x\r\n%b\r\n" % (len(piece), piece))
        at += len(piece)
    return b"".join(chunks) + b"0\r\n\r\n"


def _chunked_response(body: bytes, chance: random.Random) -> bytes:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + _chunked(body, chance)


async def identical_share(port: int, witnesses: Sequence[Witness]) -> tuple[float, int]:
    """Of all samples: how many arrived and were answered byte for byte; and how many there were."""
    asker, good, compared = Asker(port), 0, 0
    for sample in samples():
        seen: list[Request] = []
        for one in witnesses:
            one.behaviour = _answering(sample.raw_answer, seen)
        answer = await asker.ask(*sample.pieces)
        compared += 1
        good += is_identical(sample, seen, answer)
        await asyncio.sleep(0)
    asker.leave()
    return good / compared, compared


def _answering(raw: bytes, seen: list[Request]) -> Behaviour:
    def behave(connection: Connection, request: Request) -> None:
        seen.append(request)
        connection.write(raw)

    return behave


def is_identical(sample: Sample, seen: Sequence[Request], answer: Answer) -> bool:
    """Once at one worker, with the target and the body that were sent; its answer at the client."""
    arrived = [(request.target, request.body) for request in seen]
    return arrived == [(sample.target, sample.body)] and answer == Answer(200, sample.answer)
