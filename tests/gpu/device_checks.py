"""What differs with a GPU: samplers, graphs, start methods, memory that an engine gives up, and the engine's own server."""

from __future__ import annotations

import re
from collections.abc import Callable

from benchmarks.contenders import OwnServer
from benchmarks.load import Address
from ichat.config.schema import Model
from tests.gpu.bench import Bench, NotPossibleError, seconds_since
from tests.gpu.device import given_up, in_gib
from tests.gpu.serving_checks import LEFT_S, QUESTION, Figures, best_of_two

#: So much of what it took an engine must give up when it sleeps; context, graphs and work space stay.
SLEEP_SHARE = 0.5
#: After waking up it uses as much as before, but for what is measured anew.
_WAKE_TOLERANCE = 0.1
_SETTLE_S = 10
#: Worse than this beside the engine's own server is a failure; nearer to 1 the few seconds measured here say nothing.
START_LIMIT = 1.25
SPEED_LIMIT = 0.8
GRAPHS = {"vllm": r"Graph capturing finished in .*", "sglang": r"Capture [\w ]+ CUDA graph end.*"}
SAMPLERS = {
    "vllm": r"(?:Using FlashInfer for|FlashInfer) top-p[^\n]*",
    "sglang": r"'sampling_backend': '[^']+'",
}
#: What torch says in a process that was forked from one that had used CUDA: it can never come up.
_NO_FORK = r"Cannot re-initialize CUDA in forked subprocess[^\n]*"
#: vLLM notices, and spawns.
_SPAWNED_INSTEAD = r"We must use the `spawn` multiprocessing start method[^\n]*"


def found_in(log: str, pattern: str) -> str:
    """The last match, or nothing."""
    return matches[-1].strip() if (matches := re.findall(pattern, log)) else ""


def sampler(bench: Bench) -> Figures:
    """Requests with top-p and top-k are answered, by FlashInfer's sampler on a GPU: its own log says which it is."""
    said = [bench.chat(QUESTION, temperature=1.0, top_p=0.9, top_k=20, max_tokens=16) for _ in range(4)]
    assert all(said), f"empty answers: {said}"
    line = found_in(bench.log(), SAMPLERS[bench.engine])
    if not bench.site.is_rehearsal:
        assert "flashinfer" in line.lower(), (
            f"FlashInfer's sampler is not in use; the log says: {line or 'nothing of it'}"
        )
        assert not re.search("unavailable|disabled", line), line
    return {"sampler": line or "the engine's log names none"}


def graphs_on(bench: Bench) -> Figures:
    """CUDA graphs are captured by default. (The words that come out of them are checked as `words`.)"""
    line = found_in(bench.log(), GRAPHS[bench.engine])
    assert line, f"no graph was captured: nothing in the log fits {GRAPHS[bench.engine]!r}"
    rate = bench.notes["with_graphs"] = best_of_two(Address(port=bench.running.port), 8).tokens_per_s
    return {"tokens_per_s_8": rate, "log": line[:120]}


def graphs_off(bench: Bench) -> Figures:
    """Without them the same words (`words`) come at this speed, beside the speed with them.

    This server can also load adapters, which costs something by itself: the ratio is an upper bound.
    """
    line = found_in(bench.log(), GRAPHS[bench.engine])
    assert not line, f"graphs were captured all the same: {line}"
    rate = best_of_two(Address(port=bench.running.port), 8).tokens_per_s
    figures: Figures = {"tokens_per_s_8": rate}
    if (graphs := bench.notes.get("with_graphs")) is not None:
        figures["with_graphs_over_without"] = graphs / rate
    return figures


def start_method(bench: Bench) -> Figures:
    """The other way to start comes up, or the refusal is told."""
    server = bench.start()
    server.wait_for(lambda: found_in(server.lines(), _NO_FORK) or server.is_ready(), 600)
    if refused := found_in(server.lines(), _NO_FORK):
        raise NotPossibleError(f"start_method fork: the engine had touched CUDA before, and failed: {refused}")
    figures: Figures = {"ready_s": seconds_since(server.began), "start_method": bench.model["start_method"]}
    if spawned := found_in(server.lines(), _SPAWNED_INSTEAD):
        figures["start_method"] = f"spawn: {spawned}"
    return figures


def sleep(bench: Bench) -> Figures:
    """Level 1: most of the memory is given up, and taken back; the words are the same."""
    return _sleep(bench, 1)


def deep_sleep(bench: Bench) -> Figures:
    """Level 2: the weights, too, which are read from disk again."""
    return _sleep(bench, 2)


def _sleep(bench: Bench, level: int) -> Figures:
    expected = bench.chat(QUESTION)
    before = bench.site.before.used_bytes if bench.site.before else None
    awake = bench.must_use("sleep")
    assert before is not None, "the driver did not tell how much memory was in use before the start"
    bench.command("sleep", level=level)
    bench.running.wait_for(lambda: bench.running.get("/readyz")[0] == 503, 1)
    asleep = _settled(bench, lambda used: given_up(before, awake, used) >= SLEEP_SHARE)
    bench.command("wake_up")
    again = _settled(bench, lambda used: abs(used - awake) <= _WAKE_TOLERANCE * (awake - before))
    share = given_up(before, awake, asleep)
    figures: Figures = {
        "awake_gib": in_gib(awake), "asleep_gib": in_gib(asleep), "awake_again_gib": in_gib(again), "given_up": round(share, 3),
    }  # fmt: skip
    assert share >= SLEEP_SHARE, (
        f"it gave up {share:.0%} of what it had taken, expected {SLEEP_SHARE:.0%} or more: {figures}"
    )
    assert given_up(before, awake, again) < SLEEP_SHARE, f"it did not take its memory back: {figures}"
    bench.running.wait_for(lambda: bench.running.get("/readyz")[0] == 200, 30)
    said = bench.chat(QUESTION)
    assert said == expected, f"after level {level} it says {said!r}, before {expected!r}"
    return figures


def _settled(bench: Bench, is_good: Callable[[int], bool]) -> int:
    """What is in use when it is as it should be, or in the end."""
    assert bench.site.device is not None
    bench.site.device.settled(lambda sample: sample.used_bytes is not None and is_good(sample.used_bytes), _SETTLE_S)
    return bench.must_use("sleep")


def own_server(bench: Bench) -> Figures:
    """The engine's own server with the same model, arguments and environment, after ours has gone: as ratios."""
    ours = bench.notes
    assert "tokens_per_s" in ours, "there is nothing to compare with: our own throughput was not measured"
    with OwnServer(Model(name="demo", backend=bench.engine, **bench.model)) as own:  # type: ignore[arg-type]
        first_token_s = own.first_token_s()
        speed = {clients: best_of_two(own.address, clients).tokens_per_s for clients in (1, 8)}
    if bench.site.device is not None and (before := bench.site.before) is not None:
        bench.site.device.settled(lambda sample: not sample.left_since(before), LEFT_S)  # for who comes next
    figures: Figures = {
        "first_token_s": ours["first_token_s"],
        "own_first_token_s": first_token_s,
        "start_ratio": ours["first_token_s"] / first_token_s,
    }
    for clients, rate in speed.items():
        figures |= {f"own_tokens_per_s_{clients}": rate, f"speed_ratio_{clients}": ours["tokens_per_s"][clients] / rate}
    assert figures["start_ratio"] <= START_LIMIT, (
        f"the start takes {figures['start_ratio']:.2f} times as long: {figures}"
    )
    assert figures["speed_ratio_8"] >= SPEED_LIMIT, (
        f"{figures['speed_ratio_8']:.2f} of its own server's speed: {figures}"
    )
    return figures
