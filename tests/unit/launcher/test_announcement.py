"""What is announced, and what must be done about what a gateway lists."""

from __future__ import annotations

import pytest

from ichat.ipc.messages import RouteModel
from ichat.launcher.announcement import INCARNATION, Announcement, Listed, Steps, lead_to, next_steps, spelled

ME, SOMEBODY = "life-2", "life-1"
URL = "http://10.0.0.5:8000"


def model(name: str = "qwen", *aliases: str, **changed: object) -> RouteModel:
    facts: dict[str, object] = {"backend": "vllm", "state": "ready", "words": "", "since": 0.0, "instances": []}
    return RouteModel(name, [name, *aliases], **{**facts, **changed})  # type: ignore[arg-type]


def announced(url: str = URL, name: str = "qwen") -> Announcement:
    return Announcement.of(model(name), url, ME)


def listed(one: Announcement, status: str = "ready", incarnation: str = ME) -> Listed:
    return Listed(f"id-of-{one.url}", one.url, status, {**one.labels, INCARNATION: incarnation})


def steps(wanted: list[Announcement], at_our_address: list[Listed], confirmed: tuple[str, ...] = ()) -> Steps:
    return next_steps(wanted, at_our_address, ME, confirmed)


# ---- what is said ---------------------------------------------------------------------------------------------


def test_an_announcement_says_names_backend_limits_and_who_we_are() -> None:
    route = model("qwen", "qwen-7b", max_model_len=4096, limits={"concurrent": 8, "n": None})
    spec = Announcement.of(route, URL, ME).spec(5)
    assert spec["url"] == URL
    assert spec["runtime_type"] == "vllm"
    assert spec["models"] == [{"id": "qwen", "aliases": ["qwen-7b"], "context_length": 4096}]
    assert spec["labels"] == {
        "ichat.incarnation": ME, "ichat.names": "qwen,qwen-7b", "ichat.backend": "vllm",
        "ichat.max_model_len": "4096", "ichat.limit_concurrent": "8",
    }  # fmt: skip


def test_a_worker_that_is_removed_is_gone_at_once_so_that_its_successor_can_be_registered() -> None:
    assert announced().spec(7)["health"] == {"check_interval_secs": 7, "drain_settle_secs": 0}


def test_an_engine_that_the_gateway_does_not_know_is_a_plain_openai_server_to_it() -> None:
    assert Announcement.of(model(backend="fake"), URL, ME).spec(5)["runtime_type"] == "generic"


# ---- what is to be done ---------------------------------------------------------------------------------------


def test_a_model_that_is_not_listed_is_announced() -> None:
    assert steps([announced()], []).create == [announced()]


def test_a_model_that_is_listed_as_announced_leaves_nothing_to_do() -> None:
    assert steps([announced()], [listed(announced())]).is_settled


@pytest.mark.parametrize("status", ["pending", "not_ready", "failed"])
def test_a_model_that_is_listed_but_not_chosen_is_not_settled(status: str) -> None:
    found = steps([announced()], [listed(announced(), status)])
    assert found.waiting == {URL: status}
    assert not found.is_settled
    assert (found.create, found.replace, found.remove) == ([], [], [])


def test_whoever_was_at_our_address_before_us_is_replaced() -> None:
    assert steps([announced()], [listed(announced(), incarnation=SOMEBODY)]).replace == [(f"id-of-{URL}", announced())]


def test_a_worker_that_somebody_listed_by_hand_is_replaced() -> None:
    assert steps([announced()], [Listed("id", URL, "ready", {})], confirmed=(URL,)).replace == [("id", announced())]


def test_our_own_entry_is_replaced_when_what_it_says_has_changed() -> None:
    old = Announcement.of(model("qwen", "old-alias"), URL, ME)
    assert steps([announced()], [listed(old)], confirmed=(URL,)).replace == [(f"id-of-{URL}", announced())]


@pytest.mark.parametrize("incarnation", [ME, SOMEBODY])
def test_a_draining_worker_is_waited_for_and_neither_replaced_nor_registered_over(incarnation: str) -> None:
    found = steps([announced()], [listed(announced(), "draining", incarnation)])
    assert found == Steps(waiting={URL: "draining"})


def test_when_nothing_is_wanted_all_at_our_address_is_removed_whoever_registered_it() -> None:
    second = announced(spelled(URL, 1), "llama")
    found = steps([], [listed(announced()), listed(second, incarnation=SOMEBODY)])
    assert found == Steps(remove=[f"id-of-{URL}", f"id-of-{spelled(URL, 1)}"])


@pytest.mark.parametrize("incarnation", [ME, SOMEBODY])
def test_a_url_that_is_not_wanted_any_more_is_lent_to_the_first_model(incarnation: str) -> None:
    """smg's removal takes along all that lead to one address, so a single one of them is never removed."""
    second = announced(spelled(URL, 1), "llama")
    found = steps([announced()], [listed(announced()), listed(second, incarnation=incarnation)])
    lent = announced(spelled(URL, 1), "qwen")
    assert found == Steps(replace=[(f"id-of-{spelled(URL, 1)}", lent)])
    assert steps([announced()], [listed(announced()), listed(lent)]).is_settled


def test_what_is_not_wanted_and_draining_already_is_left_alone() -> None:
    assert steps([], [listed(announced(), "draining")]).is_settled


def test_whoever_registers_at_our_address_after_us_is_left_alone() -> None:
    """Two with one address by mistake: the later one keeps it, instead of each throwing the other out for ever."""
    found = steps([announced()], [listed(announced(), incarnation="life-3")], confirmed=(URL,))
    assert found == Steps(taken=URL)
    assert steps([], [listed(announced(), incarnation="life-3")], confirmed=(URL,)) == Steps(taken=URL)


# ---- addresses ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "second"),
    [
        ("http://10.0.0.5:8000", "http://10.0.0.5:08000"),
        ("http://chat.example", "http://chat.example:080"),
        ("https://chat.example/ichat", "https://chat.example:0443/ichat"),
        ("http://[fd00::5]:8000", "http://[fd00::5]:08000"),
        ("http://[fd00::5]", "http://[fd00::5]:080"),
    ],
)
def test_each_further_model_has_another_spelling_of_the_same_address(url: str, second: str) -> None:
    assert spelled(url, 0) == url
    assert spelled(url, 1) == second
    workers = [Listed(str(n), spelled(url, n), "ready", {}) for n in range(12)]
    assert len({one.url for one in workers}) == 12
    assert lead_to(url, workers) == workers


@pytest.mark.parametrize(
    "other",
    [
        "http://10.0.0.6:8000",
        "http://10.0.0.5:8001",
        "http://10.0.0.5:8000/b",
        "http://[",
        "http://h:x",
        "",
        "ipc:///a",
    ],
)
def test_workers_elsewhere_are_none_of_our_business(other: str) -> None:
    assert lead_to(URL, [Listed("1", other, "ready", {})]) == []
