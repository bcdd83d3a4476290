"""What goes wrong inside a container, and what Docker and its user see of it."""

from __future__ import annotations

import os

import pytest

from tests.image.containers import Container, error_lines
from tests.image.engine import docker
from tests.real_engine import TITLES

PROCESSES = [(backend, title) for backend, titles in TITLES.items() for title in titles]
ROOMY = ("--shm-size", "1g")  # vLLM's own layout, with a worker process


@pytest.mark.parametrize(("backend", "title"), PROCESSES)
def test_a_killed_process_of_the_engine_is_red_health_and_a_restart(backend: str, title: str) -> None:
    # An engine can be back before Docker's next probe in five seconds.
    with Container(*ROOMY, "--health-interval", "1s", ICHAT_BACKEND=backend) as it:
        it.wait_healthy()
        it.kill(title)
        it.wait_for(lambda: it.ask("GET", "/readyz")[0] == 503, 1)
        it.wait_for(lambda: it.health == "unhealthy", 12)
        words = [probe["Output"] for probe in it.state["Health"]["Log"]]
        assert any(word in one for one in words for word in ("restarting demo", "cleaning up after demo")), words
        it.wait_healthy()
        assert "ichat" in it.chat("Who are you?")
        assert it.inspect()["RestartCount"] == 0, "the launcher's own restart, not Docker's"
        assert "Z" not in it.exec("sh", "-c", "grep -h ^State: /proc/[0-9]*/status"), "a zombie"


@pytest.mark.parametrize("backend", list(TITLES))
def test_without_restarts_of_its_own_docker_restarts_it(backend: str) -> None:
    title = TITLES[backend][0]
    with Container(*ROOMY, "--restart", "on-failure:1", ICHAT_BACKEND=backend, ICHAT_RESTARTS__ENABLED="false") as it:
        it.wait_ready()
        it.kill(title)
        it.wait_for(lambda: it.inspect()["RestartCount"] == 1, 10)
        it.wait_healthy()
        it.kill(title)
        assert it.exit_code() == 69, "the engine died, and that was the last try"
        assert f"{title.lower()}" in error_lines(it.logs())[-1].lower(), "who it was"


def test_the_death_of_the_launcher_is_the_end_of_the_container() -> None:
    with Container() as it:
        it.wait_ready()
        it.kill("/opt/ichat/ichat/bin/python -P -m ichat serve")
        assert it.exit_code(limit_s=3) == 137


def test_orphans_are_reaped() -> None:
    with Container(argv=("sleep", "60")) as it:
        it.exec("sh", "-c", "(sleep 0.2 &) ; exit 0")
        it.wait_for(lambda: "sleep 0.2" not in it.processes(), 5)
        assert "Z" not in it.exec("sh", "-c", "grep -h ^State: /proc/[0-9]*/status")


def test_a_container_that_is_too_small_is_told_in_words() -> None:
    """vLLM takes some 600 MB before it has loaded anything."""
    limit = ("--memory", "450m", "--memory-swap", "450m")
    with Container(*limit, ICHAT_RESTARTS__ENABLED="false") as it:
        assert it.exit_code(limit_s=60) == 69
        line = error_lines(it.logs())[-1]
    assert "OOM killer" in line
    assert "limit 0.4 GiB" in line


def test_what_one_user_has_cached_another_goes_on_with() -> None:
    """Any uid with group 0, on the same volume."""
    volume = f"ichat-test-{os.getpid()}"
    try:
        for user in ("10001:0", "123456:0"):
            with Container("--volume", f"{volume}:/cache", "--user", user) as it:
                it.wait_ready()
                it.exec(
                    "sh",
                    "-c",
                    "umask 002; for d in $(find /cache -type d); do : > $d/.probe && rm $d/.probe || exit 1; done",
                )
    finally:
        docker("volume", "rm", "--force", volume)


def test_a_restart_of_the_container_starts_from_nothing() -> None:
    """Its files are those of the killed run: the run directory is cleaned, not refused."""
    with Container() as it:
        it.wait_ready()
        docker("kill", it.id)
        assert it.exit_code() == 137
        docker("start", it.id)
        it.wait_healthy()
        assert "ichat" in it.chat("Who are you?")
