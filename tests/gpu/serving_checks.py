"""What a client sees of a server, and what happens to it: checks that mean the same with a GPU and without one.

Each takes the bench of its stage and returns figures. An exception is a failure, and its words are the reason.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import re
import signal
import time
from typing import Any

from benchmarks.load import Address, Load, Measured, measure
from tests.demo_answers import ANSWERS
from tests.gpu.bench import Bench, seconds_since
from tests.gpu.device import in_gib
from tests.real_engine import TITLES, Stream
from tests.tiny_weights import adapter
from tests.worker_process import DEMO

Figures = dict[str, Any]

QUESTION = "What is ichat?"
ADAPTER = "other"
STREAMS = 4
#: Promised is half a second; a proof may run on a machine that does other work.
RED_LIMIT_S = 2.0
_STOP_S = 45  # the drain of 30 s, and what an engine needs to leave
LEFT_S = 15  # a driver frees memory a moment after the process has ended
_TURN_S = 3.0
_SENTENCES = ("A cat sits on the mat.", "A kitten rests on a rug.", "The stock market fell sharply today.")
#: Computed with transformers alone (float32, CPU): the first sentence beside the second, and beside the third.
COSINES = {"embedder": (0.6654, 0.0911), "demo": (0.6128, 0.7392)}
_COSINE_TOLERANCE = 0.03  # bfloat16 and other kernels


def ready(bench: Bench) -> Figures:
    """Time to ready is from exec to the first token, as for the engine's own server."""
    figures = ready_alone(bench)
    status, answer = bench.post("/v1/completions", {"model": "demo", "prompt": "Hi", "max_tokens": 1, "temperature": 0})
    assert status == 200, f"ready, but no token: status {status}: {answer}"
    figures["first_token_s"] = bench.notes["first_token_s"] = seconds_since(bench.running.began)
    return figures


def ready_alone(bench: Bench) -> Figures:
    """The same of a model that says no words."""
    bench.notes.pop("tokens_per_s", None)  # of another server
    server = bench.start()
    server.wait_ready(limit_s=600)  # the check has its own limit
    figures: Figures = {"ready_s": seconds_since(server.began)}
    if (used := in_gib(bench.used_bytes())) is not None:
        figures["device_gib"] = used
    return figures


def words(bench: Bench) -> Figures:
    """The demo model's greedy answers, equal to what it was taught: so they are equal on both engines."""
    wrong = {question: said for question in ANSWERS if (said := bench.chat(question)) != ANSWERS[question]}
    if wrong:
        question, said = next(iter(wrong.items()))
        raise AssertionError(f"{len(wrong)} of {len(ANSWERS)} answers differ. {question!r}: {said!r}")
    return {"answers": len(ANSWERS)}


def stream(bench: Bench) -> Figures:
    """A streamed answer: the same words, piece by piece, with its end."""
    body = {"model": "demo", "messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 120,
            "stream": True}  # fmt: skip
    connection = http.client.HTTPConnection("127.0.0.1", bench.running.port, timeout=60)
    with contextlib.closing(connection):
        began = time.monotonic()
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        pieces, first_s, text = [], 0.0, b""
        while data := answer.read1(65536):
            text += data
            if not first_s and re.search(rb'"content":\s?"[^"]', text):
                first_s = seconds_since(began)
    assert answer.status == 200, text
    events = [event.removeprefix(b"data: ") for event in text.split(b"\n\n") if event.startswith(b"data: ")]
    assert events[-1] == b"[DONE]", f"the stream ended with {events[-1]!r}"
    for event in events[:-1]:
        pieces += [choice["delta"].get("content") or "" for choice in json.loads(event)["choices"]]
    said, whole = "".join(pieces), bench.chat(QUESTION)
    assert said == whole, f"streamed {said!r}, plain {whole!r}"
    count = len([piece for piece in pieces if piece])
    assert count > 1, "the whole answer came in one piece"
    return {"pieces": count, "first_token_s": first_s}


def throughput(bench: Bench) -> Figures:
    """One client and eight, streaming; the second turn counts, the first warms up what is compiled at the first use."""
    alone, together = [best_of_two(Address(port=bench.running.port), clients) for clients in (1, 8)]
    bench.notes["tokens_per_s"] = {1: alone.tokens_per_s, 8: together.tokens_per_s}
    return {
        "tokens_per_s_1": alone.tokens_per_s,
        "tokens_per_s_8": together.tokens_per_s,
        "first_token_s_1": alone.first_token_s,
        "first_token_s_8": together.first_token_s,
    }


def best_of_two(address: Address, clients: int) -> Measured:
    load = Load("demo", clients, is_stream=True, duration_s=_TURN_S)
    return max((measure(address, load) for _ in range(2)), key=lambda measured: measured.tokens_per_s)


def kill(bench: Bench) -> Figures:
    """SIGKILL to a process of the engine: red at once, started again by itself, and it answers as before."""
    server = bench.running
    found = server.engine_processes()
    title = next(title for title in TITLES[bench.engine] if title in found)
    expected = bench.chat(QUESTION)
    killed_at = time.monotonic()
    found[title].send_signal(signal.SIGKILL)
    server.wait_for(lambda: server.get("/readyz")[0] != 200, RED_LIMIT_S)
    red_s = seconds_since(killed_at)
    server.wait_ready(limit_s=600)
    figures = {"killed": title, "red_s": red_s, "ready_again_s": seconds_since(killed_at)}
    assert server.restarts == 1, f"{server.restarts} restarts, expected one"
    said = bench.chat(QUESTION)
    assert said == expected, f"after the restart it says {said!r}, before {expected!r}"
    return figures


def drain(bench: Bench) -> Figures:
    """SIGTERM under streams: every one comes to its own end, and the exit code is 0."""
    server = bench.running
    # A GPU writes so fast that only an answer of nearly the whole context outlasts the signal.
    tokens = 0 if bench.site.is_rehearsal else 1900
    streams = [Stream(server, tokens) for _ in range(STREAMS)]
    for one in streams:
        assert one.began.wait(60), "a stream did not begin"
    running = sum(one.is_alive() for one in streams)
    assert running == STREAMS, f"only {running} of {STREAMS} streams were still running when it was to stop"
    began = time.monotonic()
    code = server.stop(limit_s=_STOP_S)
    took_s = seconds_since(began)
    for one in streams:
        one.join(10)
    whole = sum(one.is_complete for one in streams)
    assert whole == STREAMS, f"{whole} of {STREAMS} streams came to their end: {[one.error for one in streams]}"
    assert code == 0, f"exit code {code}, expected 0"
    return {"streams": whole, "exit_code": code, "stop_s": took_s}


def nothing_left(bench: Bench) -> Figures:
    """After its end: no process, socket or shared memory, and nothing of it on the device."""
    server = bench.running
    figures: Figures = {}
    if server.process.poll() is None:
        began = time.monotonic()
        code = server.stop(limit_s=_STOP_S)
        figures = {"stop_s": seconds_since(began)}
        assert code == 0, f"exit code {code}, expected 0"
    server.assert_nothing_left(limit_s=5)
    site = bench.site
    if site.device is not None and site.before is not None:
        before = site.before
        after = site.device.settled(lambda sample: not sample.left_since(before), LEFT_S)
        figures |= {"device_gib_before": in_gib(before.used_bytes), "device_gib_after": in_gib(after.used_bytes)}
        assert not (left := after.left_since(before)), f"on the device: {left}"
    return figures


def lora(bench: Bench) -> Figures:
    """An adapter made here is loaded by command: under its own name the model says other things, under its old the same."""
    expected = ANSWERS[QUESTION]
    folder = bench.site.folder / f"adapter-{bench.engine}"
    bench.command("load_lora", name=ADAPTER, path=str(adapter(folder)))
    said = bench.chat(QUESTION, model=f"demo:{ADAPTER}")
    assert said != expected, f"with the adapter it says the same as without it: {said!r}"
    assert bench.chat(QUESTION) == expected, "without the adapter it says other things than before"
    bench.command("unload_lora", name=ADAPTER)
    body = {"model": f"demo:{ADAPTER}", "prompt": "Hi", "max_tokens": 1}
    status, _ = bench.post("/v1/completions", body)
    assert status == 404, f"an adapter that was unloaded is answered with {status}, expected 404"
    return {"with_adapter": said[:40]}


def embeddings(bench: Bench) -> Figures:
    """Vectors of sentences are as far from each other as transformers' own are."""
    status, answer = bench.post(
        "/v1/embeddings", {"model": "demo", "input": list(_SENTENCES), "encoding_format": "float"}
    )
    assert status == 200, f"status {status}: {answer}"
    vectors = [row["embedding"] for row in answer["data"]]
    found = (cosine(vectors[0], vectors[1]), cosine(vectors[0], vectors[2]))
    expected = COSINES["demo" if bench.model["model_path"] == str(DEMO) else "embedder"]
    figures = {"cosine_near": round(found[0], 4), "cosine_far": round(found[1], 4), "length": len(vectors[0])}
    for value, wanted in zip(found, expected, strict=True):
        assert abs(value - wanted) < _COSINE_TOLERANCE, f"cosines {found}, those of transformers are {expected}"
    return figures


def cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))


def steady_words(bench: Bench) -> Figures:
    """Any model: it says something, and asked again, greedily, the same."""
    said, again = (bench.chat(QUESTION, max_tokens=24) for _ in range(2))
    assert said.strip(), "an empty answer"
    return {"says": said[:60], "says_the_same_again": said == again}
