"""What FRONT promises of our front alone: nothing fails where another worker could answer, and everybody is told in time."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from benchmarks.figures import Goal, Row
from benchmarks.front import witness
from benchmarks.front.byte_identity import identical_share
from benchmarks.front.load import Load
from benchmarks.front.our_front import OurFront
from benchmarks.front.stage import Stage
from benchmarks.front.witness import Answer, Asker, Behaviour, Witness
from benchmarks.options import say
from ichat.ipc import messages

_CASE_LIMIT_S = 20.0
_CLIENTS = 16
_PREFIXES = 12
_REQUESTS_PER_CLIENT = 60
_ANSWER_S = 0.005
_FAULTY_S = 1.5
_RESTARTS = 10
_CHAT = Load("plain", 1)


# ---- routing --------------------------------------------------------------------------------------------------------


async def _prefixes(stage: Stage) -> list[Row]:
    """Clients ask about one of twelve long texts at random; each text should stay with one instance."""
    chance = random.Random(12)
    texts = [f"Text {number}. " + "".join(chance.choices("abcdefgh ", k=2000)) for number in range(_PREFIXES)]
    by_text: list[Counter[str]] = [Counter() for _ in texts]
    async with stage.two() as both:
        for one in both:
            one.behaviour = _noting(one, texts, by_text)
        await asyncio.gather(*(_ask_about(stage.port, texts, seed) for seed in range(_CLIENTS)))
    asked = sum(count.total() for count in by_text)
    by_instance = sum(by_text, Counter())
    sticky = sum(max(count.values()) for count in by_text) / asked
    return [
        Row("prefix stickiness, 12 prefixes on 2 instances", sticky, goal=Goal(0.95, is_upper=False)),
        Row("… the busier instance's share", max(by_instance.values()) / asked, goal=Goal(0.6, is_upper=True)),
    ]


def _noting(one: Witness, texts: Sequence[str], by_text: Sequence[Counter[str]]) -> Behaviour:
    answer = witness.answers_after(_ANSWER_S)
    starts = [text[:10].encode() for text in texts]

    def behave(connection: witness.Connection, request: witness.Request) -> None:
        (number,) = (number for number, start in enumerate(starts) if start in request.body)
        by_text[number][one.path] += 1
        answer(connection, request)

    return behave


async def _ask_about(port: int, texts: Sequence[str], seed: int) -> None:
    chance, asker = random.Random(seed), Asker(port)
    for number in range(_REQUESTS_PER_CLIENT):
        text = chance.choice(texts)
        answer = await asker.ask(_chat([("system", text), ("user", f"Question {number} of client {seed}?")]))
        if answer.status != 200:
            raise RuntimeError(f"answer {answer.status}: {answer.body[:200]!r}")
    asker.leave()


def _chat(turns: Sequence[tuple[str, str]]) -> bytes:
    return _CHAT.with_messages([{"role": role, "content": text} for role, text in turns])


# ---- clients that leave -----------------------------------------------------------------------------------------------


async def _client_gone(stage: Stage) -> list[Row]:
    took_s = []
    async with stage.two() as both:
        for behaviour in (witness.is_silent, witness.begins_a_stream) * 20:
            for one in both:
                one.behaviour = behaviour
            took_s.append(await _leave_once(stage.port, both, has_answer=behaviour is witness.begins_a_stream))
    goal = Goal(100, is_upper=True)
    return [Row("client gone → engine told, the slowest of 40", max(took_s) * 1000, "ms", goal)]


async def _leave_once(port: int, both: Sequence[Witness], *, has_answer: bool) -> float:
    asker = Asker(port)
    await asker.send(_REQUEST)
    connection = await _first_seen(both)
    if has_answer:
        await asker.first_byte.wait()
    left_at = time.monotonic()
    asker.leave()
    while not connection.lost_at:
        await asyncio.sleep(0.001)
    return connection.lost_at - left_at


async def _first_seen(both: Sequence[Witness]) -> witness.Connection:
    waiting = [asyncio.ensure_future(one.next_seen()) for one in both]
    done, left = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for one in left:
        one.cancel()
    return done.pop().result()[0]


# ---- workers that fail ------------------------------------------------------------------------------------------------


async def _faulty_worker(stage: Stage) -> list[Row]:
    """One of two instances fails every request, and nobody takes it out of the routes."""
    rows = []
    for name, behaviour in (
        ("answers 500", witness.answers_status(500)),
        ("answers 503", witness.answers_status(503)),
        ("resets", witness.resets),
    ):
        async with stage.two() as (faulty, _):
            faulty.behaviour = behaviour
            rows.append(await _failures(stage, f"a worker {name}", asyncio.sleep(_FAULTY_S)))
    async with stage.two() as (faulty, _):
        faulty.kill()
        rows.append(await _failures(stage, "a worker refuses", asyncio.sleep(_FAULTY_S)))
    return rows


async def _failures(stage: Stage, name: str, meanwhile: Awaitable[None]) -> Row:
    found = await witness.under_load(stage.port, _CLIENTS, _REQUEST, meanwhile)
    failed = [answer for answer in found if answer.status != 200]
    _say_failures(name, failed)
    row = Row(f"failed requests: {name}", len(failed), f"of {len(found)}", Goal(0, is_upper=True))
    if not found:
        raise RuntimeError("no request came to an end")
    return row


def _say_failures(name: str, failed: Sequence[Answer]) -> None:
    kinds = Counter((answer.status, answer.body[:120]) for answer in failed)
    for (status, body), count in kinds.most_common(3):
        say(f"{name}: {count} × {status} {body!r}")


async def _killed_worker(stage: Stage) -> list[Row]:
    """``kill -9`` while requests wait for their first byte; the routes tell a moment later, as the launcher would."""
    async with stage.two(witness.answers_after(0.02)) as both:
        return [await _failures(stage, "6 × kill -9 of a worker, not begun", _kill_and_replace(stage, both, 6))]


async def _kill_and_replace(stage: Stage, both: Sequence[Witness], times: int) -> None:
    incarnations = [stage.new_incarnation() for _ in both]
    stage.tell(both, incarnations)
    for number in range(times):
        await asyncio.sleep(0.4)
        victim = number % 2
        both[victim].kill()
        await asyncio.sleep(0.02)
        stage.tell(both, incarnations, without=victim)
        await asyncio.sleep(0.05)
        await both[victim].start()
        incarnations[victim] = stage.new_incarnation()
        stage.tell(both, incarnations)


async def _rolling_restart(stage: Stage) -> list[Row]:
    """As the launcher does it: the front says when the instance that leaves has nothing left to do."""
    async with stage.two(witness.answers_after(_ANSWER_S)) as both:
        return [await _failures(stage, "20 rolling restarts of an instance", _roll(stage, both, 20))]


async def _roll(stage: Stage, both: Sequence[Witness], times: int) -> None:
    """Out of the routes, until its last request has ended; then it is stopped and comes back as another."""
    incarnations = [stage.new_incarnation() for _ in both]
    stage.tell(both, incarnations)
    for number in range(times):
        await asyncio.sleep(0.05)
        leaving = number % 2
        stage.tell(both, incarnations, without=leaving, is_drained=True)
        await asyncio.to_thread(stage.front.wait_for, messages.WorkerDrained)
        both[leaving].kill()
        await both[leaving].start()
        incarnations[leaving] = stage.new_incarnation()
        stage.tell(both, incarnations)


# ---- in time ----------------------------------------------------------------------------------------------------------


async def _out_and_back(stage: Stage) -> list[Row]:
    """One client: how often a worker that resets is tried before it is out; how soon it is used when it answers again."""
    tries: list[float] = []
    back_s: list[float] = []
    for _ in range(3):
        async with stage.two() as (faulty, _):
            faulty.behaviour = witness.resets
            meanwhile = _heal(faulty, tries, back_s)
            await witness.under_load(stage.port, 1, _REQUEST, meanwhile)
    return [
        Row("dead worker out after so many failures", max(tries), goal=Goal(1, is_upper=True)),
        Row("recovered worker back, the slowest of 3", max(back_s), "s", Goal(1, is_upper=True)),
    ]


async def _heal(faulty: Witness, tries: list[float], back_s: list[float]) -> None:
    await faulty.next_seen()
    await asyncio.sleep(0.1)
    tries.append(1 + len(faulty.seen))
    await asyncio.sleep(2)
    faulty.seen.clear()
    faulty.behaviour = witness.answers
    healed_at = time.monotonic()
    _, request = await faulty.next_seen()
    back_s.append(request.at - healed_at)


async def _restarted(stage: Stage) -> list[Row]:
    back_s: list[float] = []

    async def restart(both: Sequence[Witness]) -> None:
        await asyncio.sleep(0.1)
        stage.tell(both, ["first", "first"], without=0)
        both[0].kill()
        await both[0].start()
        both[0].seen.clear()
        stage.tell(both, ["second", "first"])
        told_at = time.monotonic()
        _, request = await both[0].next_seen()
        back_s.append(request.at - told_at)

    for _ in range(_RESTARTS):
        async with stage.two() as both:
            stage.tell(both, ["first", "first"])
            await witness.under_load(stage.port, 4, _REQUEST, restart(both))
    return [Row(f"restarted worker used, the slowest of {_RESTARTS}", max(back_s), "s", Goal(1, is_upper=True))]


async def _bytes(stage: Stage) -> list[Row]:
    async with stage.two() as both:
        share, compared = await identical_share(stage.port, both)
    return [Row(f"share of {compared} bodies and answers that are byte-identical", share, goal=Goal(1, is_upper=False))]


_REQUEST = _CHAT.requests()[0]

PROMISES: dict[str, Callable[[Stage], Awaitable[list[Row]]]] = {
    "prefix stickiness and load split": _prefixes,
    "client gone → engine told": _client_gone,
    "failed requests with a faulty worker": _faulty_worker,
    "failed requests, kill -9": _killed_worker,
    "failed requests, rolling restart": _rolling_restart,
    "dead worker out, recovered worker back": _out_and_back,
    "restarted worker back": _restarted,
    "byte identity": _bytes,
}


async def keep_promises(front: OurFront, folder: Path) -> tuple[list[Row], dict[str, str]]:
    """The rows, and for a promise that could not be measured why."""
    stage, rows, failed = Stage(front, folder), [], {}
    for name, promise in PROMISES.items():
        say(f"promise: {name}")
        try:
            async with asyncio.timeout(_CASE_LIMIT_S):
                rows += await promise(stage)
        except (RuntimeError, TimeoutError) as error:
            failed[name] = str(error) or f"no end within {_CASE_LIMIT_S:.0f} s"
            say(f"promise: {name}: {failed[name]}")
    return rows, failed
