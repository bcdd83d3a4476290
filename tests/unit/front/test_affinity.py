"""A conversation goes on where it began, and no worker gets too much for it."""

import json
import random
from dataclasses import dataclass

from ichat.front.affinity import PrefixMap, marks_of
from ichat.front.traffic import ModelTraffic

INSTRUCTION = "You are a helpful assistant. " * 20


@dataclass(eq=False)
class Busy:
    """What the choice looks at of a worker."""

    name: str
    in_flight: int = 0
    served: int = 0
    prompts: int = 0


def body(*texts: str, instruction: str = INSTRUCTION, **fields: object) -> bytes:
    roles = ["user", "assistant"] * len(texts)
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    return json.dumps(
        {"model": "demo", **fields, "messages": [{"role": "system", "content": instruction}, *messages]}
    ).encode()


def least(workers: list[Busy]) -> Busy:
    return min(workers, key=lambda worker: (worker.in_flight, worker.served))


def ask(prefixes: PrefixMap, workers: list[Busy], text: bytes) -> Busy:
    chosen = prefixes.choose(text, workers, least(workers), ModelTraffic())
    chosen.served += 1
    return chosen


def text_of(chance: random.Random, length: int) -> str:
    return "".join(chance.choice("abcdefgh ") for _ in range(length))


def test_twelve_prefixes_stay_with_their_instance_and_both_have_their_share() -> None:
    for seed in range(8):
        chance = random.Random(seed)
        prefixes, workers = PrefixMap(), [Busy("a"), Busy("b")]
        instructions = [text_of(chance, 2000) for _ in range(12)]
        home: dict[int, Busy] = {}
        stayed = 0
        for _ in range(2000):
            number = chance.randrange(12)
            asked = body(text_of(chance, chance.randrange(400)), instruction=instructions[number])
            chosen = ask(prefixes, workers, asked)
            stayed += home.setdefault(number, chosen) is chosen
        assert stayed / 2000 >= 0.95
        assert 0.4 <= workers[0].served / 2000 <= 0.6


def test_a_conversation_that_grows_stays_where_it_is() -> None:
    chance = random.Random(1)
    prefixes, workers = PrefixMap(), [Busy(str(number)) for number in range(4)]
    talks = [[text_of(chance, 900)] for _ in range(20)]
    home = [ask(prefixes, workers, body(*talk)) for talk in talks]
    assert {worker.name for worker in home} == {"0", "1", "2", "3"}
    for _ in range(15):
        for talk, worker in zip(talks, home, strict=True):
            talk += [text_of(chance, 300), text_of(chance, 60)]
            assert ask(prefixes, workers, body(*talk)) is worker


def test_a_short_instruction_that_all_have_does_not_send_all_to_one() -> None:
    chance = random.Random(2)
    prefixes, workers = PrefixMap(), [Busy("a"), Busy("b")]
    for _ in range(400):
        ask(prefixes, workers, body(text_of(chance, 3000), instruction="Be kind. " * 30))
    assert workers[0].served == workers[1].served == 200


def test_what_stands_before_the_prompt_does_not_matter() -> None:
    prefixes, workers = PrefixMap(), [Busy("a"), Busy("b")]
    for number in range(100):
        fields = {"user": f"user-{number}", "temperature": number / 7}
        assert ask(prefixes, workers, body("hi", **fields)) is workers[0]


def test_a_busy_instance_loses_its_conversations_to_the_others() -> None:
    prefixes, workers = PrefixMap(), [Busy("a"), Busy("b")]
    asked, counts = body("hello"), ModelTraffic()
    home = ask(prefixes, workers, asked)
    other = workers[1 - workers.index(home)]
    for other.in_flight, home.in_flight, is_home in ((0, 8, True), (10, 23, True), (0, 9, False)):
        assert (prefixes.choose(asked, workers, other, counts) is home) == is_home
    home.in_flight = 0  # what went away has a new home
    assert prefixes.choose(asked, workers, home, counts) is other
    assert (counts.affinity_hits, counts.affinity_misses) == (3, 1)


def test_an_instance_that_is_gone_is_forgotten() -> None:
    prefixes, workers = PrefixMap(), [Busy("a"), Busy("b"), Busy("c")]
    home = ask(prefixes, workers, body("hello"))
    left = [worker for worker in workers if worker is not home]
    prefixes.keep(left)
    assert ask(prefixes, left, body("hello")) is left[0]


def test_memory_has_an_end_and_what_is_used_stays() -> None:
    chance = random.Random(3)
    prefixes, workers = PrefixMap(), [Busy("a"), Busy("b")]
    home = ask(prefixes, workers, body("used"))
    for number in range(12_000):
        prefixes.choose(
            body(f"{number} " + text_of(chance, 20), instruction=str(number) * 300), workers, workers[0], ModelTraffic()
        )
        if number % 500 == 0:
            assert ask(prefixes, workers, body("used")) is home
    assert len(prefixes._young) + len(prefixes._old) < 70_000


def test_a_short_prompt_has_no_beginning_worth_knowing() -> None:
    assert marks_of(b'{"messages": [{"role": "user", "content": "hi"}]}') == ([], 0)
    assert marks_of(b"") == ([], 0)
    marks, size = marks_of(bytearray(body("x" * 100_000)))
    assert size == 32 * 1024
    assert 10 < len(marks) < 30
