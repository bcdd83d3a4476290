"""ichat behind the real smg: registration, rolling restarts, and everything that may happen to either of them."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.gateway.load import Load
from tests.gateway.router import Router, free_port
from tests.launcher_process import ROOT, Launcher, ask

pytestmark = [pytest.mark.peer, pytest.mark.timeout(180)]

EVERY_S = 1
TIMEOUTS = {"linger_s": 1, "drain_s": 10, "gateway_every_s": EVERY_S, "gateway_limit_s": 2}
#: smg has listed and confirmed us by then, on a machine that has other work.
SOON_S = 10


def fake(**changed: Any) -> dict[str, Any]:
    return {"backend": "fake", "model_path": "fake/model", **changed}


def container(router: Router, **sections: Any) -> Launcher:
    """Its address stays the same when it is started again, as that of a container in compose does."""
    gateway = {"address": router.url, **sections.pop("gateway", {})}
    server = {"port": free_port(), **sections.pop("server", {})}
    timeouts = {**TIMEOUTS, **sections.pop("timeouts", {})}
    return Launcher(gateway=gateway, server=server, timeouts=timeouts, **sections)


def incarnation(router: Router, launcher: Launcher) -> str | None:
    return router.ready().get(launcher.port)


def restart(router: Router, launcher: Launcher) -> None:
    """As an orchestrator does it: SIGTERM, wait, start, wait until it is in the load balancer again."""
    before = incarnation(router, launcher)
    assert launcher.stop() == 0, launcher.lines()
    launcher.start()
    router.wait_for(lambda: incarnation(router, launcher) not in (None, before), SOON_S)


def kill_whole(launcher: Launcher) -> None:
    """As when its machine loses power: nobody can say goodbye."""
    for pid in launcher.survivors():
        os.kill(pid, signal.SIGKILL)
    launcher.process.wait()


def warnings(launcher: Launcher) -> list[str]:
    return re.findall(r"warning (gateway .*)", launcher.lines())


@pytest.fixture
def router() -> Iterator[Router]:
    # Its own second tries would hide what we lose.
    with Router("--disable-retries") as running:
        yield running


def test_two_containers_share_the_load_as_soon_as_they_are_ready(router: Router) -> None:
    with container(router, engine_args={"load_s": 1}) as a, container(router) as b:
        router.wait_for(lambda: set(router.ready()) == {a.port, b.port}, SOON_S)
        assert a.probe("/health")[0] == b.probe("/health")[0] == 200
        with Load(router.port) as load:
            time.sleep(1)
        assert load.failed == []
        for one in (a, b):
            _, metrics = one.get("/metrics")
            answered = re.search(r"ichat_front_requests_total\{.*chat.*2xx.*\} (\d+)", metrics)
            assert answered is not None
            assert int(answered[1]) > len(load.answers) / 4


def test_it_announces_names_backend_limits_and_incarnation(router: Router) -> None:
    with container(router) as it:
        router.wait_for(lambda: it.port in router.ready(), SOON_S)
        (worker,) = router.workers()
        assert worker["url"] == f"http://127.0.0.1:{it.port}"
        assert worker["model_id"] == "demo"
        assert worker["labels"]["ichat.backend"] == "fake"
        assert re.fullmatch(r"[0-9a-f]{16}", worker["labels"]["ichat.incarnation"])


def test_every_model_of_a_container_is_reached_by_each_of_its_names(router: Router) -> None:
    """smg knows one model for each URL: the second is registered at another spelling of the same one."""
    models = {"demo": fake(aliases=["demo-latest"]), "other": fake(), "third": fake()}
    with container(router, models=models) as it:
        router.wait_for(lambda: len(router.workers()) == 3 and it.port in router.ready(), SOON_S)
        answers = {name: ask_demo(router, model=name) for name in ("demo", "demo-latest", "other", "third", "fourth")}
        assert answers == {"demo": 200, "demo-latest": 200, "other": 200, "third": 200, "fourth": 404}
        _, listed = router.call("GET", "/v1/models")
        assert {one["id"] for one in listed["data"]} == {"demo", "other", "third"}
        assert it.stop() == 0
        assert router.workers() == []


def test_what_a_reload_changes_is_known_to_the_router_and_loses_no_request(router: Router) -> None:
    with container(router, models={"demo": fake(), "other": fake()}) as it:
        router.wait_for(lambda: len(router.workers()) == 2, SOON_S)
        with Load(router.port) as load:
            reload(it, {"demo": fake(aliases=["new-name"]), "third": fake()})
            router.wait_for(lambda: ask_demo(router, model="new-name") == 200, 20)
            router.wait_for(lambda: ask_demo(router, model="third") == 200, 20)
            router.wait_for(lambda: ask_demo(router, model="other") == 404, SOON_S)
            reload(it, {"demo": fake(engine_args={"token_s": 0.001}, rollout="surge"), "third": fake()})
            router.wait_for(lambda: ask_demo(router, model="new-name") == 404, SOON_S)
            assert {one["model_id"] for one in router.workers()} == {"demo", "third"}
            it.wait_for(
                lambda: "reload: done" in it.lines().partition("third")[2] or it.probe("/health")[0] == 200, SOON_S
            )
            time.sleep(0.5)
        assert load.failed == [], f"{len(load.failed)} of {len(load.answers)}"
        assert warnings(it) == []


def test_a_rolling_restart_of_both_loses_no_request(router: Router) -> None:
    with container(router, engine_args={"token_s": 0.002}) as a, container(router, engine_args={"token_s": 0.002}) as b:
        router.wait_for(lambda: set(router.ready()) == {a.port, b.port}, SOON_S)
        with Load(router.port, clients=8) as load:
            for _ in range(3):
                for one in (a, b):
                    restart(router, one)
        assert load.failed == [], f"{len(load.failed)} of {len(load.answers)}"
        assert len(load.answers) > 3000


def test_a_long_request_outlives_the_withdrawal_of_its_container(router: Router) -> None:
    with container(router, engine_args={"token_s": 0.5}) as it:
        router.wait_for(lambda: it.port in router.ready(), SOON_S)
        with Load(router.port, clients=2) as load:
            time.sleep(0.5)
            it.process.send_signal(signal.SIGTERM)
            router.wait_for(lambda: not router.ready(), 1)
            load._is_over.set()
        assert [answer.status for answer in load.answers] == [200, 200]
        assert load.failed == []
        assert it.wait() == 0


def test_who_comes_back_while_the_old_entry_drains_is_registered_after_that(router: Router) -> None:
    """The known trap, with smg's own five seconds of drain: whoever registers within them is refused, or lost."""
    port = free_port()
    with Launcher(server={"port": port}, timeouts={"linger_s": 0}) as old:
        old.wait_ready()
        spec = {"url": f"http://127.0.0.1:{port}", "models": [{"id": "demo"}]}
        router.call("POST", "/workers", spec)
        router.wait_for(lambda: port in router.ready(), SOON_S)
        (worker,) = router.workers()
        router.call("DELETE", f"/workers/{worker['id']}")
        old.stop()
    with container(router, server={"port": port}) as new:
        new.wait_ready()
        assert [one["status"] for one in router.workers()] == ["draining"]
        assert router.call("POST", "/workers", spec)[0] == 409
        router.wait_for(lambda: incarnation(router, new), 5 + SOON_S)
        assert ask_demo(router) == 200
        time.sleep(6)
        assert incarnation(router, new) is not None
        assert warnings(new) == []


def test_stop_and_start_at_once_at_the_same_address_is_registered_ten_times_of_ten(router: Router) -> None:
    with container(router, timeouts={"linger_s": 0}) as it:
        router.wait_for(lambda: it.port in router.ready(), SOON_S)
        for _ in range(10):
            restart(router, it)
            assert ask_demo(router) == 200


def test_a_container_that_was_killed_is_detected_and_replaced_at_its_address() -> None:
    with Router() as router, container(router) as a, container(router) as b:
        router.wait_for(lambda: set(router.ready()) == {a.port, b.port}, SOON_S)
        before = incarnation(router, a)
        with Load(router.port) as load:
            time.sleep(0.3)
            kill_whole(a)
            router.wait_for(lambda: set(router.ready()) == {b.port}, 10)
            a.start()
            router.wait_for(lambda: incarnation(router, a) not in (None, before), SOON_S)
            time.sleep(0.3)
        # What it held when it died is lost to its clients where they had bytes of it; all else is tried again by smg.
        assert len(load.failed) <= 4, load.failed
        assert all(answer.began < load.answers[-1].began - 0.3 for answer in load.failed)


def test_a_router_that_comes_back_empty_has_everybody_again(router: Router) -> None:
    with container(router) as a, container(router) as b:
        router.wait_for(lambda: set(router.ready()) == {a.port, b.port}, SOON_S)
        for _ in range(3):
            router.kill()
            assert ask_demo(a) == ask_demo(b) == 200
            router.start()
            began = time.monotonic()
            router.wait_for(lambda: set(router.ready()) == {a.port, b.port}, SOON_S)
            assert time.monotonic() - began < EVERY_S + 2


def test_without_a_router_it_serves_warns_once_and_leaves_in_time() -> None:
    router = Router()
    with container(router) as it:
        it.wait_ready()
        assert ask_demo(it) == 200
        time.sleep(3 * EVERY_S)
        (warning,) = warnings(it)
        assert "does not answer" in warning
        began = time.monotonic()
        assert it.stop() == 0
        assert time.monotonic() - began < TIMEOUTS["linger_s"] + 2
        it.assert_nothing_left()


def test_a_router_that_starts_later_is_told_then() -> None:
    router = Router()
    with container(router) as it:
        it.wait_ready()
        with router:
            router.wait_for(lambda: it.port in router.ready(), SOON_S)
            assert ask_demo(router) == 200


def test_a_router_that_is_stopped_in_its_tracks_does_not_hold_us_up(router: Router) -> None:
    with container(router) as it:
        router.wait_for(lambda: it.port in router.ready(), SOON_S)
        assert router.process is not None
        router.process.send_signal(signal.SIGSTOP)
        it.wait_for(lambda: warnings(it), 10)
        assert ask_demo(it) == 200
        began = time.monotonic()
        assert it.stop() == 0
        assert time.monotonic() - began < TIMEOUTS["linger_s"] + 2
        assert "could not withdraw" in warnings(it)[-1]


def test_a_wrong_key_costs_one_warning_and_is_not_shown() -> None:
    with Router("--control-plane-api-keys", "1:ichat:admin:right-key") as router:  # noqa: SIM117
        with container(router, gateway={"api_key": "wrong-key"}) as it:
            it.wait_ready()
            time.sleep(3 * EVERY_S)
            (warning,) = warnings(it)
            assert "refuses our key (401). Set gateway.api_key" in warning
            assert "wrong-key" not in it.lines()
            assert ask_demo(it) == 200


def test_the_right_key_registers() -> None:
    with Router("--control-plane-api-keys", "1:ichat:admin:right-key", key="right-key") as router:  # noqa: SIM117
        with container(router, gateway={"api_key": "right-key"}) as it:
            router.wait_for(lambda: it.port in router.ready(), SOON_S)
            assert "right-key" not in it.lines()


def test_the_key_of_a_client_passes_through_the_router_to_us(router: Router) -> None:
    with container(router, server={"api_key": "client-key"}) as it:
        router.wait_for(lambda: it.port in router.ready(), SOON_S)
        assert ask_demo(router, key="client-key") == 200
        assert ask_demo(router, key="another") == 401


# ---- what docs/gateway.md and the compose file say of smg -----------------------------------------------------


def test_smg_starts_with_the_flags_of_the_compose_file() -> None:
    compose = yaml.safe_load((ROOT / "deploy" / "gateway" / "docker-compose.yml").read_text())
    command = [re.sub(r"\$\{GATEWAY_KEY:\?[^}]*\}", "a-key", one) for one in compose["services"]["router"]["command"]]
    flags = [one for one in command if not one.startswith(("--host=", "--port=", "--policy="))]
    assert "1:ichat:admin:a-key" in flags
    with Router(*flags, key="a-key") as router, container(router, gateway={"api_key": "a-key"}) as it:
        router.wait_for(lambda: it.port in router.ready(), SOON_S)
        assert ask_demo(router) == 200


def test_the_page_says_which_routes_pass(router: Router) -> None:
    page = (ROOT / "docs" / "gateway.md").read_text()
    rows = {name: re.findall(r"(/[\w./]+)", row) for name, row in re.findall(r"^\| (pass|404) \| (.*) \|$", page, re.M)}
    assert len(rows["pass"]) >= 10
    assert len(rows["404"]) >= 10
    with container(router) as it:
        router.wait_for(lambda: it.port in router.ready(), SOON_S)
        for path in rows["pass"]:
            assert not is_refused_by_smg(router, path), path
        for path in rows["404"]:
            assert is_refused_by_smg(router, path), path


def is_refused_by_smg(router: Router, path: str) -> bool:
    """As a path that it does not have, by whatever method."""
    answers = [router.call(method, path, {} if method == "POST" else None) for method in ("GET", "POST")]
    return all("unknown_url" in json.dumps(answer) for _, answer in answers)


def reload(launcher: Launcher, models: dict[str, Any]) -> None:
    launcher.configure(models=models)
    launcher.process.send_signal(signal.SIGHUP)


def ask_demo(where: Router | Launcher, key: str | None = None, model: str = "demo") -> int:
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hi"}]})
    return ask(where.port, "POST", "/v1/chat/completions", body, headers)[0]
