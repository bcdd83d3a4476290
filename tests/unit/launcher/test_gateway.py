"""Registration with a scripted gateway, in virtual time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from ichat.config.schema import Settings, Timeouts
from ichat.ipc.messages import RouteModel, Routes
from ichat.launcher.announcement import INCARNATION, Listed, PublicAddress, lead_to
from ichat.launcher.gateway import Registration, registration_for
from ichat.launcher.gateway_api import GatewayError

pytestmark = pytest.mark.looptime
TIMEOUTS = Timeouts(gateway_every_s=5, gateway_limit_s=5)
URL = "http://10.0.0.5:8000"
ME, BEFORE = "life-2", "life-1"


class FakeBoard:
    def __init__(self, *models: str) -> None:
        self.is_green = False
        self.models = dict.fromkeys(models or ("qwen",), "starting")
        self.aliases: list[str] = []
        self.excused: set[str] = set()
        self._listeners: list[Callable[[], None]] = []

    def health(self) -> tuple[bool, str]:
        return self.is_green, "ready" if self.is_green else "loading qwen: weights, 3 s"

    def routes(self) -> Routes:
        models = [
            RouteModel(name, [name, *self.aliases], "vllm", state, "", 0.0, [], is_excused=name in self.excused)  # type: ignore[arg-type]
            for name, state in self.models.items()
        ]
        return Routes(models, was_ready=self.is_green)

    def listen(self, listener: Callable[[], None]) -> None:
        self._listeners.append(listener)

    def change(self, **states: str) -> None:
        """Green when every model is ready, as on the real board."""
        self.models |= states
        self.is_green = set(self.models.values()) == {"ready"}
        for listener in self._listeners:
            listener()


class FakeGateway:
    """smg as measured: it takes a while to list, refuses an address that it has, and drains what is removed."""

    name = "http://router:30000"
    limit_s = 5.0

    def __init__(self) -> None:
        self.listed: dict[str, Listed] = {}
        self.lists_after_s = 0.02
        self.drains_s = 0.0
        self.trouble: GatewayError | None = None
        self.hangs_s = 0.0
        self.calls: list[tuple[float, str]] = []
        self.was_green: list[bool] = []
        self.asked_front: list[str] = []
        self.front_lags_until = 0.0
        self.board: FakeBoard | None = None
        self._making: set[str] = set()
        self._ids = 0

    async def workers(self) -> list[Listed]:
        await self._be_asked("list")
        return list(self.listed.values())

    async def create(self, spec: dict[str, Any]) -> None:
        await self._be_asked(f"create {spec['url']}")
        if self.board is not None:
            self.was_green.append(self.board.is_green)
        if spec["url"] in {one.url for one in self.listed.values()} | self._making:
            return  # 409
        self._making.add(spec["url"])
        asyncio.get_running_loop().call_later(self.lists_after_s, self._list, spec)

    async def replace(self, worker: str, spec: dict[str, Any]) -> None:
        await self._be_asked(f"replace {spec['url']}")
        if worker in self.listed:
            self.listed[worker] = Listed(worker, spec["url"], "ready", spec["labels"])

    async def remove(self, worker: str) -> None:
        """It takes along all that lead to the same address."""
        await self._be_asked("remove")
        if (named := self.listed.get(worker)) is not None:
            for one in lead_to(named.url, self.listed.values()):
                self.listed[one.id] = Listed(one.id, one.url, "draining", one.labels)
                asyncio.get_running_loop().call_later(self.drains_s, self.listed.pop, one.id, None)

    async def local_address(self) -> str:
        await self._be_asked("address")
        return "10.0.0.5"

    async def is_green(self, url: str) -> bool:
        assert self.board is not None
        self.asked_front.append(url)
        return self.board.is_green and asyncio.get_running_loop().time() >= self.front_lags_until

    def _list(self, spec: dict[str, Any]) -> None:
        self._making.discard(spec["url"])
        self.has(spec["url"], spec["labels"])

    async def _be_asked(self, call: str) -> None:
        self.calls.append((asyncio.get_running_loop().time(), call))
        await asyncio.sleep(self.hangs_s)
        if self.trouble is not None:
            raise self.trouble

    # ---- what a test does -------------------------------------------------------------------------------------

    def has(self, url: str, labels: dict[str, str], status: str = "ready") -> str:
        self._ids += 1
        self.listed[str(self._ids)] = Listed(str(self._ids), url, status, labels)
        return str(self._ids)

    def forget(self) -> None:
        """As after its restart."""
        self.listed.clear()

    @property
    def urls(self) -> dict[str, str | None]:
        """What it would choose: URL → incarnation."""
        return {one.url: one.incarnation for one in self.listed.values() if one.status == "ready"}

    def called(self, what: str) -> list[float]:
        return [round(at, 2) for at, call in self.calls if call.startswith(what)]


class Bench:
    def __init__(self, *models: str, host: str = "0.0.0.0", advertise: str | None = None) -> None:
        self.board, self.gateway = FakeBoard(*models), FakeGateway()
        self.gateway.board = self.board
        address = PublicAddress(host, 8000, "http", advertise)
        self.registration = Registration(self.gateway, self.board, address, ME, TIMEOUTS)

    def start(self) -> Bench:
        self.registration.start()
        return self

    async def registered(self) -> Bench:
        self.start()
        await asyncio.sleep(1)
        self.board.change(**dict.fromkeys(self.board.models, "ready"))
        await asyncio.sleep(1)
        assert set(self.gateway.urls.values()) == {ME}
        return self


def told(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == level]


# ---- announcing -----------------------------------------------------------------------------------------------


async def test_nothing_is_registered_before_it_can_answer() -> None:
    bench = Bench().start()
    await asyncio.sleep(600)
    assert bench.gateway.called("create") == []
    bench.board.change(qwen="ready")
    await asyncio.sleep(0.5)
    assert bench.gateway.urls == {URL: ME}
    assert bench.gateway.was_green == [True]


async def test_while_nothing_is_wanted_the_gateway_is_left_in_peace() -> None:
    bench = Bench().start()
    await asyncio.sleep(600)
    assert [call for _, call in bench.gateway.calls] == ["address", "list"]


async def test_what_the_gateway_lists_from_a_life_before_is_removed_while_we_load() -> None:
    bench = Bench()
    bench.gateway.has(URL, {INCARNATION: BEFORE})
    bench.gateway.has("http://10.0.0.6:8000", {INCARNATION: "other"})
    bench.start()
    await asyncio.sleep(1)
    assert bench.gateway.urls == {"http://10.0.0.6:8000": "other"}


async def test_the_life_before_may_drain_as_long_as_it_likes_and_we_are_registered_right_after_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The known trap: smg loses whoever registers while the old one at this address drains."""
    bench = Bench()
    bench.gateway.drains_s = 30
    await bench.gateway.remove(bench.gateway.has(URL, {INCARNATION: BEFORE}))
    bench.start().board.change(qwen="ready")
    await asyncio.sleep(29.9)
    assert bench.gateway.urls == {}
    assert bench.gateway.called("replace") + bench.gateway.called("create") == []
    await asyncio.sleep(5.2)
    assert bench.gateway.urls == {URL: ME}
    assert told(caplog) == []


async def test_a_registration_that_is_lost_is_repeated_until_it_sticks() -> None:
    bench = await Bench().registered()
    for _ in range(3):
        bench.gateway.forget()
        await asyncio.sleep(5.5)
        assert bench.gateway.urls == {URL: ME}


async def test_each_model_is_registered_at_a_spelling_of_its_own() -> None:
    bench = await Bench("qwen", "llama").registered()
    assert bench.gateway.urls == {URL: ME, "http://10.0.0.5:08000": ME}


@pytest.mark.parametrize(
    ("host", "advertise", "url"),
    [
        ("0.0.0.0", None, "http://10.0.0.5:8000"),
        ("::", None, "http://10.0.0.5:8000"),
        ("192.168.1.9", None, "http://192.168.1.9:8000"),
        ("fd00::9", None, "http://[fd00::9]:8000"),
        ("0.0.0.0", "http://ichat-a:8000", "http://ichat-a:8000"),
    ],
)
async def test_we_are_advertised_where_we_can_be_reached(host: str, advertise: str | None, url: str) -> None:
    bench = await Bench(host=host, advertise=advertise).registered()
    assert list(bench.gateway.urls) == [url]


# ---- keeping it so --------------------------------------------------------------------------------------------


async def test_the_gateway_is_asked_every_gateway_every_s_whether_it_still_knows_us() -> None:
    bench = await Bench().registered()
    before = len(bench.gateway.calls)
    await asyncio.sleep(100)
    asked = len(bench.gateway.calls) - before
    assert 20 <= asked <= 25
    assert {call for _, call in bench.gateway.calls[before:]} == {"list"}


async def test_many_that_a_restarted_gateway_has_forgotten_do_not_come_back_at_the_same_moment() -> None:
    benches = [await Bench().registered() for _ in range(10)]
    for bench in benches:
        bench.gateway.forget()
        bench.gateway.calls.clear()
    await asyncio.sleep(6)
    assert len({bench.gateway.called("create")[0] for bench in benches}) > 5


async def test_waits_that_a_reload_changes_hold_from_then_on() -> None:
    bench = await Bench().registered()
    changed = {
        "models": [{"name": "qwen", "model_path": "x"}],
        "timeouts": {"gateway_every_s": 20, "gateway_limit_s": 1},
    }
    bench.registration.take(Settings.model_validate(changed))
    await asyncio.sleep(5)
    before = len(bench.gateway.calls)
    await asyncio.sleep(100)
    assert 4 <= len(bench.gateway.calls) - before <= 7
    assert bench.gateway.limit_s == 1


async def test_a_model_that_a_reload_holds_requests_for_stays() -> None:
    bench = await Bench("qwen", "llama").registered()
    bench.board.excused.add("llama")
    bench.board.change(llama="starting")
    await asyncio.sleep(600)
    assert bench.gateway.called("remove") == []


async def test_names_that_a_reload_changes_are_announced_at_once() -> None:
    bench = await Bench().registered()
    bench.board.aliases.append("qwen-7b")
    bench.board.change()
    await asyncio.sleep(0.1)
    (one,) = bench.gateway.listed.values()
    assert one.labels["ichat.names"] == "qwen,qwen-7b"


async def test_a_model_that_a_reload_removes_is_out_at_once_and_takes_none_along() -> None:
    bench = await Bench("qwen", "llama").registered()
    del bench.board.models["qwen"]
    bench.board.change()
    await asyncio.sleep(0.2)
    assert bench.gateway.urls == {URL: ME, "http://10.0.0.5:08000": ME}
    assert {one.labels["ichat.names"] for one in bench.gateway.listed.values()} == {"llama"}
    assert bench.gateway.called("remove") == []


async def test_a_model_that_a_reload_adds_is_announced_when_it_is_ready() -> None:
    bench = await Bench("qwen").registered()
    bench.board.change(llama="starting")
    await asyncio.sleep(60)
    assert bench.gateway.urls == {URL: ME}
    bench.board.change(llama="ready")
    await asyncio.sleep(0.5)
    assert bench.gateway.urls == {URL: ME, "http://10.0.0.5:08000": ME}


async def test_what_is_red_for_less_than_gateway_every_s_stays() -> None:
    bench = await Bench().registered()
    bench.board.change(qwen="starting")
    await asyncio.sleep(4)
    bench.board.change(qwen="ready")
    await asyncio.sleep(60)
    assert bench.gateway.called("remove") == []


async def test_what_is_red_for_longer_is_withdrawn_and_announced_again_when_it_is_ready() -> None:
    bench = await Bench().registered()
    bench.board.change(qwen="starting")
    await asyncio.sleep(11)
    assert bench.gateway.urls == {}
    bench.board.change(qwen="ready")
    await asyncio.sleep(0.5)
    assert bench.gateway.urls == {URL: ME}


async def test_as_long_as_one_model_is_ready_all_stay() -> None:
    """A single one cannot be removed, nor anything be changed while the whole is red."""
    bench = await Bench("qwen", "llama").registered()
    bench.board.change(llama="failed")
    await asyncio.sleep(60)
    assert len(bench.gateway.urls) == 2
    assert bench.gateway.called("remove") + bench.gateway.called("replace") == []
    bench.board.change(qwen="failed")
    await asyncio.sleep(11)
    assert bench.gateway.urls == {}


async def test_the_front_is_asked_whether_it_is_green_before_anything_is_registered() -> None:
    """smg looks at /health first and again after 30 s, and the front turns green after the board."""
    bench = Bench().start()
    bench.gateway.front_lags_until = 1
    bench.board.change(qwen="ready")
    await asyncio.sleep(0.9)
    assert bench.gateway.called("create") == []
    await asyncio.sleep(1)
    assert bench.gateway.urls == {URL: ME}
    assert set(bench.gateway.asked_front) == {"http://127.0.0.1:8000"}


async def test_two_with_one_address_do_not_push_each_other_out(caplog: pytest.LogCaptureFixture) -> None:
    bench = await Bench().registered()
    bench.gateway.forget()
    bench.gateway.has(URL, {INCARNATION: "life-3"})
    await asyncio.sleep(600)
    assert bench.gateway.urls == {URL: "life-3"}
    (warning,) = told(caplog)
    assert "gateway.advertise" in warning
    bench.gateway.forget()
    await asyncio.sleep(6)
    assert bench.gateway.urls == {URL: ME}


# ---- a gateway in trouble -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["away", "refused", "redirect", "nonsense", "status 422"])
async def test_any_trouble_costs_one_warning_and_is_over_within_gateway_every_s(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ichat.launcher.gateway_story")
    bench = Bench()
    bench.gateway.trouble = GatewayError(kind, "does something odd")
    bench.start().board.change(qwen="ready")
    await asyncio.sleep(3600)
    assert told(caplog) == ["gateway http://router:30000: does something odd; serving goes on, trying again"]
    assert len(bench.gateway.calls) < 1000
    bench.gateway.trouble = None
    await asyncio.sleep(5.5)
    assert bench.gateway.urls == {URL: ME}
    assert told(caplog, logging.INFO) == [f"gateway http://router:30000: registered url={URL} models=qwen"]


async def test_a_gateway_that_dies_and_comes_back_empty_has_us_again(caplog: pytest.LogCaptureFixture) -> None:
    bench = await Bench().registered()
    bench.gateway.trouble = GatewayError("away", "does not answer")
    bench.gateway.forget()
    await asyncio.sleep(60)
    bench.gateway.trouble = None
    await asyncio.sleep(5.5)
    assert bench.gateway.urls == {URL: ME}
    assert len(told(caplog)) == 1


async def test_a_gateway_that_cannot_reach_us_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench().start()
    bench.gateway.lists_after_s = 1e6
    bench.board.change(qwen="ready")
    await asyncio.sleep(60)
    (warning,) = told(caplog)
    assert "does not choose us (not listed) at http://10.0.0.5:8000. Can it reach us there?" in warning


async def test_a_model_that_is_refused_does_not_keep_the_others_out() -> None:
    class Choosy(FakeGateway):
        async def create(self, spec: dict[str, Any]) -> None:
            if spec["models"][0]["id"] == "qwen":
                raise GatewayError("status 400", "answers 400: no such thing")
            await super().create(spec)

    board, gateway = FakeBoard("qwen", "llama"), Choosy()
    gateway.board = board
    registration = Registration(gateway, board, PublicAddress("0.0.0.0", 8000), ME, TIMEOUTS)
    registration.start()
    board.change(qwen="ready", llama="ready")
    await asyncio.sleep(1)
    assert gateway.urls == {"http://10.0.0.5:08000": ME}
    await registration.withdraw(1)


# ---- leaving --------------------------------------------------------------------------------------------------


async def test_a_withdrawal_ends_when_the_gateway_has_stopped_choosing_us(looptime: Any) -> None:
    bench = await Bench("qwen", "llama").registered()
    bench.gateway.drains_s = 3
    before = asyncio.get_running_loop().time()
    await bench.registration.withdraw(5)
    assert asyncio.get_running_loop().time() - before < 0.2
    assert bench.gateway.urls == {}


async def test_after_a_withdrawal_nothing_is_announced_whatever_happens() -> None:
    bench = await Bench().registered()
    await bench.registration.withdraw(5)
    bench.board.change(qwen="starting")
    bench.board.change(qwen="ready")
    await asyncio.sleep(600)
    assert bench.gateway.urls == {}


async def test_what_was_asked_for_a_moment_ago_is_withdrawn_too() -> None:
    bench = Bench().start()
    bench.gateway.lists_after_s = 0.5
    await asyncio.sleep(1)
    bench.board.change(qwen="ready")
    await asyncio.sleep(0.01)
    assert bench.gateway.called("create") == [1.0]
    await bench.registration.withdraw(5)
    await asyncio.sleep(5)
    assert bench.gateway.listed == {}


async def test_a_gateway_that_hangs_costs_a_withdrawal_its_limit_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    bench = await Bench().registered()
    bench.gateway.hangs_s = 3600
    before = asyncio.get_running_loop().time()
    await bench.registration.withdraw(2)
    assert asyncio.get_running_loop().time() - before == pytest.approx(2)
    assert told(caplog) == [
        "gateway http://router:30000: could not withdraw (has not done it within 2 s); draining anyway"
    ]


async def test_a_gateway_that_refuses_a_withdrawal_is_asked_again_until_the_limit(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = await Bench().registered()
    bench.gateway.trouble = GatewayError("away", "answers 500: oh")
    asyncio.get_running_loop().call_later(1, setattr, bench.gateway, "trouble", None)
    await bench.registration.withdraw(2)
    assert bench.gateway.urls == {}
    assert told(caplog) == []


async def test_somebody_elses_entry_at_our_address_survives_our_withdrawal() -> None:
    bench = await Bench().registered()
    bench.gateway.forget()
    bench.gateway.has(URL, {INCARNATION: "life-3"})
    await bench.registration.withdraw(5)
    assert bench.gateway.urls == {URL: "life-3"}


async def test_whoever_was_never_announced_leaves_without_a_word_to_the_gateway() -> None:
    bench = Bench().start()
    await asyncio.sleep(10)
    before = len(bench.gateway.calls)
    await bench.registration.withdraw(5)
    assert len(bench.gateway.calls) == before


async def test_where_we_are_is_taken_from_the_settings_and_the_port_that_was_bound() -> None:
    settings = Settings.model_validate(
        {
            "models": [{"name": "qwen", "model_path": "x"}],
            "server": {"host": "::1", "port": 0, "tls_cert_file": "cert.pem", "tls_key_file": "key.pem"},
            "gateway": {"address": "http://127.0.0.1:9"},
        }
    )
    registration = registration_for(settings, FakeBoard(), 8443, ME)
    assert registration.address.from_here == "https://[::1]:8443"
