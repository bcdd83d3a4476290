"""The judgement on an engine that does not answer, and the monitor that acts on it (in virtual time)."""

from __future__ import annotations

import asyncio

import pytest

from ichat.backends.monitor import Judgement, Monitor, Signs, judge, scan_while
from ichat.config.schema import Timeouts
from ichat.errors import EngineError
from ichat.system.activity import Activity

TIMEOUTS = Timeouts()


@pytest.mark.parametrize(
    ("signs", "judgement"),
    [
        (Signs(2.5, in_flight=0, quiet_s=2.5), Judgement.WAIT),
        (Signs(3, in_flight=0, quiet_s=3), Judgement.SUSPECT),
        (Signs(10, in_flight=0, quiet_s=10), Judgement.HANGS),
        # Nothing to do, and at work all the same: it goes in circles, as soon as it has had the time for an answer.
        (Signs(3, in_flight=0, quiet_s=0, used_s=3), Judgement.WAIT),
        (Signs(5, in_flight=0, quiet_s=0, used_s=5), Judgement.SUSPECT),
        (Signs(10, in_flight=0, quiet_s=0, used_s=10), Judgement.HANGS),
        # Nothing to do, and hardly a core to answer with: a machine that is busy, or a quota.
        (Signs(60, in_flight=0, quiet_s=0, used_s=2), Judgement.WAIT),
        (Signs(3, in_flight=1, quiet_s=0, used_s=3), Judgement.WAIT),
        (Signs(120, in_flight=1, quiet_s=0, used_s=120), Judgement.WAIT),
        (Signs(120, in_flight=1, quiet_s=1.5, used_s=2), Judgement.WAIT),
        (Signs(900, in_flight=1, quiet_s=0, used_s=900), Judgement.HANGS),
        (Signs(3, in_flight=1, quiet_s=0, stopped=("VLLM::Worker",)), Judgement.SUSPECT),
        (Signs(10, in_flight=1, quiet_s=0, stopped=("VLLM::Worker",)), Judgement.HANGS),
        (Signs(9.5, in_flight=1, quiet_s=9.5), Judgement.WAIT),
        (Signs(10, in_flight=1, quiet_s=2), Judgement.HANGS),
    ],
)
def test_an_idle_engine_hangs_sooner_than_one_that_computes(signs: Signs, judgement: Judgement) -> None:
    assert judge(signs, TIMEOUTS) is judgement


class Patient:
    """An engine that answers a probe after ``answers_in_s``, and shows the signs it is told to."""

    def __init__(self, answers_in_s: float, *, cores: float = 0.0, queued: float = 0.0, requests: int = 0) -> None:
        self.answers_in_s, self.cores, self.queued, self.requests = answers_in_s, cores, queued, requests
        self.probes = self.looks = 0
        self.tokens = 0.0
        self.is_commanded = False

    async def probe(self) -> None:
        self.probes += 1
        await asyncio.sleep(self.answers_in_s)

    def in_flight(self) -> int:
        return self.requests

    def progress(self) -> float:
        return self.tokens

    def stopped_processes(self) -> tuple[str, ...]:
        return ()

    def activity(self) -> Activity:
        now = asyncio.get_running_loop().time()
        return Activity(now * self.cores, now * self.queued)

    def look_around(self) -> None:
        self.looks += 1


class News:
    def __init__(self) -> None:
        self.heard: list[tuple[float, str]] = []

    def _note(self, what: str) -> None:
        self.heard.append((asyncio.get_running_loop().time(), what))

    def phase(self, phase: str) -> None:
        self._note(phase)

    def suspect(self, words: str) -> None:
        self._note("suspect")

    def recovered(self) -> None:
        self._note("recovered")

    def resting(self, words: str) -> None:
        self._note("resting")

    def ready(self) -> None:
        self._note("ready")

    def stopping(self, in_flight: int) -> None:
        self._note("stopping")

    def compiling(self, running: int, done: int) -> None: ...

    def residue(self, shm: list[str]) -> None:
        self._note("residue")


@pytest.mark.looptime
async def test_an_idle_engine_is_suspected_after_three_seconds_and_lost_after_ten(looptime: object) -> None:
    news = News()
    with pytest.raises(EngineError, match="not answered a probe for 10 s") as caught:
        await Monitor(Patient(answers_in_s=3600), TIMEOUTS, news).run()
    assert caught.value.code == "E-ENG-HUNG"
    assert looptime == 10
    assert news.heard == [(3, "suspect")]


@pytest.mark.looptime
async def test_a_late_answer_clears_the_suspicion(looptime: object) -> None:
    news, patient = News(), Patient(answers_in_s=6)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(Monitor(patient, TIMEOUTS, news).run(), 7)
    assert [what for _, what in news.heard] == ["suspect", "recovered"]


@pytest.mark.looptime
async def test_a_legal_prefill_of_two_minutes_is_no_hang(looptime: object) -> None:
    news, patient = News(), Patient(answers_in_s=120, cores=1.0, requests=1)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(Monitor(patient, TIMEOUTS, news).run(), 124)
    assert news.heard == []
    assert patient.probes == 1


@pytest.mark.looptime
@pytest.mark.parametrize("requests", [0, 1])
async def test_an_engine_that_waits_for_a_core_is_no_hang(looptime: object, requests: int) -> None:
    """A hundredth of a core, as under a quota or beside thirty others: an answer takes a minute."""
    news, patient = News(), Patient(answers_in_s=60, cores=0.01, queued=0.9, requests=requests)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(Monitor(patient, TIMEOUTS, news).run(), 64)
    assert news.heard == []


@pytest.mark.looptime
async def test_a_computation_without_end_is_a_hang(looptime: object) -> None:
    with pytest.raises(EngineError):
        await Monitor(Patient(answers_in_s=1e9, cores=1.0, requests=1), TIMEOUTS, News()).run()
    assert looptime == 900


@pytest.mark.looptime
async def test_a_token_is_an_answer(looptime: object) -> None:
    patient = Patient(answers_in_s=1e9, requests=1)

    async def generate() -> None:
        while True:
            await asyncio.sleep(8)
            patient.tokens += 1

    tokens = asyncio.create_task(generate())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(Monitor(patient, TIMEOUTS, News()).run(), 100)
    tokens.cancel()
    assert patient.probes > 5


@pytest.mark.looptime
async def test_probes_come_every_five_seconds_one_at_a_time(looptime: object) -> None:
    patient = Patient(answers_in_s=0.25)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(Monitor(patient, TIMEOUTS, News()).run(), 21)
    assert patient.probes == patient.looks == 4


@pytest.mark.looptime
async def test_an_engine_at_work_on_a_command_is_not_probed_and_not_suspected() -> None:
    news, patient = News(), Patient(answers_in_s=1e9)

    async def command() -> None:
        await asyncio.sleep(2)  # the first probe is under way
        patient.is_commanded = True
        await asyncio.sleep(300)
        patient.answers_in_s, patient.is_commanded = 0.25, False

    commanding = asyncio.create_task(command())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(Monitor(patient, TIMEOUTS, news).run(), 310)
    await commanding
    assert news.heard == []
    assert patient.probes >= 2


@pytest.mark.looptime
async def test_a_suspicion_stays_through_a_command_until_a_probe_is_answered() -> None:
    news, patient = News(), Patient(answers_in_s=1e9)

    async def command() -> None:
        await asyncio.sleep(4)
        patient.is_commanded = True
        await asyncio.sleep(60)
        patient.answers_in_s, patient.is_commanded = 0.25, False

    commanding = asyncio.create_task(command())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(Monitor(patient, TIMEOUTS, news).run(), 80)
    await commanding
    assert [what for _, what in news.heard] == ["suspect", "recovered"]
    assert news.heard[1][0] > 64


@pytest.mark.looptime
async def test_a_probe_that_fails_is_the_engines_failure(looptime: object) -> None:
    class Broken(Patient):
        async def probe(self) -> None:
            raise ConnectionResetError("gone")

    with pytest.raises(EngineError, match="ConnectionResetError: gone"):
        await Monitor(Broken(0), TIMEOUTS, News()).run()


@pytest.mark.looptime
async def test_a_start_is_looked_at_while_it_lasts(looptime: object) -> None:
    looks: list[float] = []
    await scan_while(asyncio.sleep(2.2), lambda: looks.append(asyncio.get_running_loop().time()), every_s=0.5)
    assert len(looks) == 5


@pytest.mark.looptime
async def test_a_start_that_fails_raises_what_it_raised(looptime: object) -> None:
    async def start() -> None:
        await asyncio.sleep(1)
        raise EngineError("no")

    with pytest.raises(EngineError, match="no"):
        await scan_while(start(), lambda: None)
