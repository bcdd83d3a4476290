"""The checker catches every violation that it is there for, and lets an honest history be."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pytest

from tests.history.checker import Rules, Verdict, check
from tests.history.records import Event, History, Request, parse

#: What only an answer has.
ANSWERED = (
    "text",
    "tokens",
    "finish_reason",
    "done",
    "answered_model",
    "answered_name",
    "answered_id",
    "tag",
    "instance",
)


def request(number: float = 0, **changed: Any) -> Request:
    """An honest one, sent at the second of its number."""
    honest = Request(
        id=f"r-{number}", model="a", name="a-alias", kind="sse", asked_tokens=2,
        t_due=float(number), t_sent=float(number), t_first_byte=number + 0.1, t_end=number + 0.2,
        status=200, text="word0 word1 ", tokens=2, finish_reason="length", done=True,
        answered_model="a", answered_name="a-alias", answered_id=f"r-{number}", tag="1", instance="a/0", connection=1,
    )  # fmt: skip
    return replace(honest, **changed)


def plain(number: float = 0, **changed: Any) -> Request:
    return request(number, kind="plain", done=False, **changed)


def refused(number: float = 0, status: int = 404, code: str = "model_not_found", **changed: Any) -> Request:
    nothing = Request("", "a", "a-alias", "sse", 2, 0)
    said = {field: getattr(nothing, field) for field in ANSWERED}
    return request(number, **{**said, "outcome": "refused", "status": status, "code": code, **changed})


def event(kind: str, at: float, **said: Any) -> Event:
    return Event(kind, at, said)


def judge(*requests: Request, events: tuple[Event, ...] = (), sent: int | None = None, **rules: Any) -> Verdict:
    load = event("load", 1000, prefix="r", sent=len(requests) if sent is None else sent)
    return check(History(list(requests), [*events, load]), Rules(**rules))


GOES = (event("changing", 10, name="a-alias"), event("removed", 20, name="a-alias"))
COMES = (event("changing", 30, name="a-alias"), event("served", 40, name="a-alias"))


def broken(verdict: Verdict) -> list[str]:
    return [violation.rule for violation in verdict.violations]


def test_an_honest_history_is_clean() -> None:
    verdict = judge(request(0), plain(1), request(2, outcome="left", done=False, finish_reason=""))
    assert verdict.is_clean, verdict.report()
    assert verdict.report().startswith("0 failed of 3 requests over 2.2 s: 2 ok, 1 left")


# ---- one end ----------------------------------------------------------------------------------------------


def test_a_request_without_an_end_is_caught() -> None:
    assert broken(judge(request(0), request(2), sent=3)) == ["one end"]


def test_a_request_with_two_ends_is_caught() -> None:
    assert broken(judge(request(0), request(0), sent=1)) == ["one end", "one end"]


def test_a_load_that_did_not_come_to_its_end_is_caught() -> None:
    assert broken(check(History([request()], []))) == ["one end"]


def test_bytes_that_nobody_asked_for_are_caught() -> None:
    stray = event("stray", 1, connection=4, data="b'HTTP/1.1 200'")
    assert broken(judge(request(), events=(stray,))) == ["one end"]


@pytest.mark.parametrize("outcome", ["cut", "reset", "unreachable", "timeout"])
def test_an_end_that_is_no_answer_is_a_failure(outcome: str) -> None:
    verdict = judge(request(outcome=outcome))
    assert (broken(verdict), verdict.failed) == (["failed"], 1)


@pytest.mark.parametrize(("status", "code"), [(404, "model_not_found"), (503, "model_loading"), (500, "engine_error")])
def test_a_refusal_of_a_name_that_is_served_is_a_failure(status: int, code: str) -> None:
    assert broken(judge(refused(status=status, code=code, retry_after=True))) == ["failed"]


def test_an_error_event_in_a_stream_is_a_failure() -> None:
    assert broken(judge(request(error_event=True, code="worker_lost"))) == ["failed"]


# ---- the whole answer ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changed",
    [
        {"text": "word1 word0 "},
        {"text": "word0 ", "tokens": 1},
        {"tokens": 3},
        {"finish_reason": ""},
        {"done": False},
        {"strange": "an event after [DONE]: b'data: x'"},
    ],
    ids=["out of order", "a word is missing", "a word too many", "no finish reason", "no [DONE]", "something strange"],
)
def test_an_answer_that_is_not_whole_is_caught(changed: dict[str, Any]) -> None:
    assert set(broken(judge(request(**changed)))) == {"whole answer"}


def test_a_plain_answer_needs_no_done_but_its_text() -> None:
    assert judge(plain()).is_clean
    assert broken(judge(plain(text="word0 "))) == ["whole answer"]


def test_an_engine_whose_text_is_not_known_is_held_to_its_count_of_tokens() -> None:
    assert judge(request(text="Hello"), text=None).is_clean
    assert broken(judge(request(text="Hello", tokens=1), text=None)) == ["whole answer"]


# ---- by the right one -----------------------------------------------------------------------------------------


def test_an_answer_from_another_model_is_caught() -> None:
    assert broken(judge(request(answered_model="b"))) == ["right model"]


def test_a_name_that_nobody_was_expected_to_answer_for_may_have_come_meanwhile() -> None:
    assert judge(request(35, model=""), events=GOES + COMES, sent=0).is_clean
    assert broken(judge(request(25, model=""), events=GOES + COMES, sent=0)) == ["removed"]


def test_an_engine_may_call_itself_as_it_was_asked_for() -> None:
    assert judge(request(answered_model="a-alias"), repeats_the_name=True).is_clean
    assert broken(judge(request(answered_model="b"), repeats_the_name=True)) == ["right model"]


def test_an_answer_to_another_request_is_caught() -> None:
    assert broken(judge(request(answered_id="r-7"))) == ["right request"]


def test_a_worker_that_was_asked_for_another_name_is_caught() -> None:
    assert broken(judge(request(answered_name="b"))) == ["right request"]


def test_an_engine_that_does_not_repeat_the_id_may_be_let_be() -> None:
    assert judge(request(answered_id="cmpl-123", answered_name=""), names_the_id=False).is_clean


def test_an_answer_older_than_was_promised_when_it_was_sent_is_caught() -> None:
    promises = (event("promise", 0.5, model="a", tag=2), event("promise", 10, model="a", tag=3))
    verdict = judge(request(0), request(1, tag="2"), request(2, tag="1"), request(3, tag="10"), events=promises)
    assert [violation.request.id for violation in verdict.violations if violation.request] == ["r-2"]
    assert broken(verdict) == ["right configuration"]


def test_a_promise_does_not_bind_what_was_sent_before_it() -> None:
    assert judge(request(0, t_end=9.0), events=(event("promise", 5, model="a", tag=2),)).is_clean


def test_an_answer_newer_than_was_offered_is_caught() -> None:
    offers = (event("offered", 0, model="a", tag=1), event("offered", 5, model="a", tag=2))
    verdict = judge(request(1, tag="2"), request(4.9, tag="2"), request(6, tag="2"), events=offers, sent=0)
    assert [violation.request.id for violation in verdict.violations if violation.request] == ["r-1"]


def test_an_answer_without_a_tag_breaks_a_promise() -> None:
    verdict = judge(request(1, tag=""), events=(event("promise", 0, model="a", tag=1),))
    assert "right configuration" in broken(verdict)


# ---- names that come and go -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "one",
    [
        request(5), request(15), refused(15), refused(15, 503, "model_draining", retry_after=True), refused(25),
        request(29.9, t_end=31), refused(29.9), refused(35, 503, "model_loading", retry_after=True), request(45),
    ],
    ids=lambda one: f"{one.outcome} {one.code} sent at {one.t_sent}",
)  # fmt: skip
def test_what_is_honest_while_a_name_goes_and_comes_is_let_be(one: Request) -> None:
    verdict = judge(one, events=GOES + COMES, sent=0)
    assert verdict.is_clean, verdict.report()


@pytest.mark.parametrize(
    ("one", "rule"),
    [
        (refused(5), "failed"),
        (request(25), "removed"),
        (refused(25, 503, "model_draining", retry_after=True), "honest refusal"),
        (refused(15, 500, "engine_error"), "honest refusal"),
        (refused(15, 404, "not_found"), "honest refusal"),
        (refused(35, 503, "model_loading"), "honest refusal"),
        (refused(15, strange="a refusal without a code: b'{}'"), "honest refusal"),
        (refused(45), "failed"),
        (request(15, outcome="cut"), "failed"),
        (refused(25, outcome="reset"), "failed"),
    ],
    ids=lambda value: f"{value.outcome} {value.code} sent at {value.t_sent}" if isinstance(value, Request) else value,
)  # fmt: skip
def test_what_is_not_honest_while_a_name_goes_and_comes_is_caught(one: Request, rule: str) -> None:
    assert broken(judge(one, events=GOES + COMES, sent=0)) == [rule]


# ---- executions -----------------------------------------------------------------------------------------------


def notes(*lines: str) -> dict[str, Any]:
    return {"notes": lines}


WHOLE = ("r-0 began 0.1", "r-0 whole 0.2")


def test_one_execution_to_its_end_is_right() -> None:
    assert judge(request(), **notes(*WHOLE)).is_clean


@pytest.mark.parametrize(
    ("one", "lines"),
    [
        (request(), (*WHOLE, *WHOLE)),
        (request(), ()),
        (request(), ("r-0 began 0.1", "r-0 left 0.2")),
        (request(), (*WHOLE, "r-9 began 0.1", "r-9 whole 0.2")),
        (request(outcome="left"), ("r-0 began 0.1",)),
        (request(outcome="left"), ("r-0 began 0.1", "r-0 left 0.8")),
        (request(outcome="left"), ("r-0 began 0.1", "r-0 whole 5.0")),
    ],
    ids=["twice", "never", "not to its end", "for a stranger", "for ever", "too long after the client left", "in vain"],
)
def test_executions_that_are_not_right_are_caught(one: Request, lines: tuple[str, ...]) -> None:
    assert broken(judge(one, **notes(*lines))) == ["executions"]


def test_a_refusal_that_was_executed_is_caught() -> None:
    assert broken(judge(refused(15), events=GOES, sent=0, **notes(*WHOLE))) == ["executions"]


def test_a_request_that_its_client_sent_again_may_be_executed_twice() -> None:
    assert judge(request(resent=1), **notes(*WHOLE, *WHOLE)).is_clean
    assert broken(judge(request(resent=1), **notes(*WHOLE, *WHOLE, *WHOLE))) == ["executions"]


def test_a_retry_of_the_front_may_be_allowed() -> None:
    assert judge(request(), most_executions=2, **notes(*WHOLE, "r-0 began 0.1", "r-0 failed 0.1")).is_clean


def test_a_client_that_left_before_its_request_arrived_has_none() -> None:
    assert judge(request(outcome="left"), **notes()).is_clean


# ---- the report, and the file -----------------------------------------------------------------------------------


def test_the_report_shows_the_first_violations_in_full() -> None:
    report = judge(*(request(number, outcome="cut") for number in range(20))).report(most=3)
    assert "20 failed of 20 requests" in report
    assert "20 × failed" in report
    assert report.count('"outcome": "cut"') == 3
    assert '"id": "r-2"' in report


def test_a_history_is_read_in_the_order_of_time() -> None:
    lines = [json.dumps(asdict(request(2))), json.dumps({"event": "promise", "at": 5.0, "model": "a", "tag": 1}),
             json.dumps(asdict(request(1)))]  # fmt: skip
    history = parse(lines)
    assert [one.id for one in history.requests] == ["r-1", "r-2"]
    assert history.events == [event("promise", 5.0, model="a", tag=1)]
