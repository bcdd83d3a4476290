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
        # It computes for longer than its own past explains: nothing is sent to it, and it may still come to an end.
        (Signs(20, in_flight=1, quiet_s=0, used_s=40, computed_s=20, bound_s=19), Judgement.SUSPECT),
        (Signs(20, in_flight=1, quiet_s=0, used_s=40, computed_s=20, bound_s=21), Judgement.WAIT),
        (Signs(900, in_flight=1, quiet_s=0, used_s=40, computed_s=20, bound_s=21), Judgement.HANGS),
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
        self.progressed: float | None = 0.0
        self.computed = self.owed = 0
        self.stopped: tuple[str, ...] = ()
        self.is_commanded = self.is_resting = self.compiles = False
        self.silent: dict[int, float] = {}  # ranks that do not answer, and what they use of a core
        self._used_s = self._seen_at = 0.0

    def ranks(self) -> tuple[int, ...]:
        return (0, 1) if self.silent else (0,)

    async def probe(self, rank: int) -> None:
        self.probes += 1
        await asyncio.sleep(1e9 if rank in self.silent else self.answers_in_s)

    def steps(self, rank: int) -> float:
        return 0.0 if rank in self.silent else self.progressed or 0.0

    def in_flight(self) -> int:
        return self.requests

    def progress(self) -> float | None:
        return self.progressed

    def tokens(self) -> int:
        return self.computed

    def owed_tokens(self) -> int:
        return self.owed

    def stopped_processes(self) -> tuple[str, ...]:
        return self.stopped

    def is_compiling(self) -> bool:
        return self.compiles

    def activity(self, rank: int | None = None) -> Activity:
        now = asyncio.get_running_loop().time()
        if rank in self.silent:
            return Activity(now * self.silent[rank], 0.0)
        self._used_s += (now - self._seen_at) * self.cores
        self._seen_at = now
        return Activity(self._used_s, now * self.queued)

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
@pytest.mark.parametrize(("warm_up_s", "owed", "cores"), [(0.4, 4000, 2.0), (0.4, 10, 0.05)])
async def test_a_legal_prefill_of_two_minutes_is_no_hang(warm_up_s: float, owed: int, cores: float) -> None:
    """The first one of a cold engine: a long prompt, or a short one on a machine that gives it a twentieth of a core."""
    news, patient = News(), Patient(answers_in_s=120, cores=cores, queued=1 - min(1, cores), requests=1)
    patient.owed = owed
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(Monitor(patient, TIMEOUTS, news, warm_up_s).run(), 124)
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
    news = News()
    with pytest.raises(EngineError):
        await Monitor(Patient(answers_in_s=1e9, cores=1.0, requests=1), TIMEOUTS, news).run()
    assert looptime == 900
    assert news.heard == [(8, "suspect")]


@pytest.mark.looptime
async def test_an_engine_that_computes_without_a_token_is_suspected_though_it_answers_probes(looptime: object) -> None:
    """And is lost when it has computed for ``busy_limit_s``."""
    news = News()
    with pytest.raises(EngineError, match=r"has made no token of 3 requests for 90[01] s"):
        await Monitor(Patient(answers_in_s=0.25, cores=1.0, requests=3), TIMEOUTS, news).run()
    assert [what for _, what in news.heard] == ["suspect"]
    assert 8 <= news.heard[0][0] <= 9


@pytest.mark.looptime
async def test_what_the_engine_took_before_it_may_take_again(looptime: object) -> None:
    """After a step of 20 s one of 40 is nothing; one of 200 is."""
    news, patient = News(), Patient(answers_in_s=0.25, cores=1.0, requests=1)

    async def steps() -> None:
        for step_s in (20, 40, 200):
            await asyncio.sleep(step_s)
            assert patient.progressed is not None
            patient.progressed += 1

    stepping = asyncio.create_task(steps())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(Monitor(patient, TIMEOUTS, news).run(), 262)
    stepping.cancel()
    assert [what for _, what in news.heard] == ["suspect", "recovered"] * 2
    assert [round(at) for at, _ in news.heard][1::2] == [20, 260]
    assert news.heard[2][0] > 60 + 100


@pytest.mark.looptime
@pytest.mark.parametrize("case", ["paused", "no counters", "compiles", "waits for others", "idle"])
async def test_without_a_token_for_a_reason_it_is_not_suspected(looptime: object, case: str) -> None:
    news, patient = News(), Patient(answers_in_s=0.25, cores=1.0, requests=1)
    patient.is_resting, patient.compiles = case == "paused", case == "compiles"
    if case == "no counters":
        patient.progressed = None
    patient.cores = 0.01 if case == "waits for others" else 1.0
    patient.requests = 0 if case == "idle" else 1
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(Monitor(patient, TIMEOUTS, news).run(), 600)
    assert news.heard == []


@pytest.mark.looptime
async def test_a_rank_that_does_nothing_is_found_while_its_sibling_answers(looptime: object) -> None:
    patient = Patient(answers_in_s=0.25, cores=1.0, requests=2)
    patient.silent = {1: 0.0}
    tokens = asyncio.create_task(_make_tokens(patient, every_s=0.4))
    with pytest.raises(EngineError, match="rank 1 of the engine has not answered a probe for 10 s"):
        await Monitor(patient, TIMEOUTS, News()).run()
    tokens.cancel()


@pytest.mark.looptime
async def test_a_rank_that_goes_in_circles_is_suspected_while_its_sibling_answers(looptime: object) -> None:
    news, patient = News(), Patient(answers_in_s=0.25, cores=1.0, requests=2)
    patient.silent = {1: 1.0}
    tokens = asyncio.create_task(_make_tokens(patient, every_s=0.4))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(Monitor(patient, TIMEOUTS, news).run(), 60)
    tokens.cancel()
    assert news.heard == [(8, "suspect")]


async def _make_tokens(patient: Patient, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        assert patient.progressed is not None
        patient.progressed += 1


@pytest.mark.looptime
async def test_a_stopped_process_is_seen_at_once_whatever_the_traffic(looptime: object) -> None:
    """It is not ready after two looks, killed after ``probe_limit_s``; tokens of others and answers do not count."""
    news, patient = News(), Patient(answers_in_s=0.25, cores=1.0, requests=2)
    tokens = asyncio.create_task(_make_tokens(patient, every_s=0.4))
    asyncio.get_running_loop().call_later(20.1, setattr, patient, "stopped", ("VLLM::Worker (pid 7)",))
    with pytest.raises(EngineError, match=r"stopped: VLLM::Worker \(pid 7\), for 10 s"):
        await Monitor(patient, TIMEOUTS, news).run()
    tokens.cancel()
    assert news.heard == [(21, "suspect")]
    assert looptime == 30


@pytest.mark.looptime
async def test_a_process_that_goes_on_is_trusted_again_with_the_next_answer(looptime: object) -> None:
    news, patient = News(), Patient(answers_in_s=0.25)
    loop = asyncio.get_running_loop()
    loop.call_later(6, setattr, patient, "stopped", ("VLLM::Worker (pid 7)",))
    loop.call_later(8, setattr, patient, "stopped", ())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(Monitor(patient, TIMEOUTS, news).run(), 30)
    assert [what for _, what in news.heard] == ["suspect", "recovered"]
    assert news.heard[1][0] == 10.75


@pytest.mark.looptime
async def test_a_process_that_a_profiler_stops_for_an_instant_is_none_to_wonder_about(looptime: object) -> None:
    news, patient = News(), Patient(answers_in_s=0.25)
    loop = asyncio.get_running_loop()
    loop.call_later(5.9, setattr, patient, "stopped", ("VLLM::Worker (pid 7)",))
    loop.call_later(6.1, setattr, patient, "stopped", ())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(Monitor(patient, TIMEOUTS, news).run(), 30)
    assert news.heard == []


@pytest.mark.looptime
async def test_a_token_is_an_answer(looptime: object) -> None:
    patient = Patient(answers_in_s=1e9, requests=1)

    async def generate() -> None:
        while True:
            await asyncio.sleep(8)
            assert patient.progressed is not None
            patient.progressed += 1

    tokens = asyncio.create_task(generate())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(Monitor(patient, TIMEOUTS, News()).run(), 100)
    tokens.cancel()
    assert patient.probes > 5


@pytest.mark.looptime
async def test_probes_come_every_five_seconds_one_at_a_time(looptime: object) -> None:
    patient = Patient(answers_in_s=0.25)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(Monitor(patient, TIMEOUTS, News()).run(), 20.9)
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
        async def probe(self, rank: int) -> None:
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
