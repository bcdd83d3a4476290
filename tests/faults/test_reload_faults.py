"""Configuration files as they come: invalid, half written, swapped, a thousand times a second (FAULTS R1, R2, R4, R5)."""

from __future__ import annotations

import itertools
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.faults.test_launcher_faults import Stream
from tests.history.mix import Mix, Target
from tests.history.trial import NOTES, Trial
from tests.launcher_process import Launcher, ask

pytestmark = pytest.mark.timeout(180)

RATE = 100
TIMEOUTS = {"linger_s": 0, "drain_s": 20, "watch_every_s": 0.02, "settle_s": 0.1}
MIX = Mix((Target("demo", "demo"),))


def launcher(**sections: Any) -> Launcher:
    it = Launcher(timeouts=TIMEOUTS, **sections)
    it.configure(models=models(it, 1))
    return it


def models(it: Launcher, tag: int, **script: Any) -> dict[str, Any]:
    args = {"tag": str(tag), "token_s": 0.002, "notes": str(it.home / NOTES)}
    return {"demo": {"rollout": "surge", "limit_queued": 10_000, "engine_args": args | script}}


def assert_clean(it: Launcher, trial: Trial) -> None:
    """It still serves, and has served all the time."""
    trial.wait_until_sent(trial.load.sent + 20, 10)
    trial.load.stop()
    assert it.stop() == 0, it.lines()
    verdict = trial.judge(abort_within_s=2)
    verdict.assert_clean(it.lines())


# ---- R1, R4: what is wrong changes nothing ----------------------------------------------------------------------

INVALID = {
    "no YAML": "models: {demo: [",
    "a tab": "models:\n\tdemo: {}\n",
    "an unknown key": "models: {demo: {backend: fake, model_path: fake/model, tensor_paralel_size: 2}}",
    "a wrong type": "server: {port: soon}\nmodels: {demo: {backend: fake, model_path: fake/model}}",
    "no path": "models: {other: {backend: fake}}",
    "a name twice": "models: {a: {backend: fake, model_path: x}, b: {backend: fake, model_path: x, aliases: [a]}}",
    "nothing": "",
    "no models": "server: {host: 127.0.0.1, port: 0}",
    "binary": "\x00\x01\x02",
}


def test_an_invalid_file_changes_nothing_and_says_so_with_its_place() -> None:
    with (it := launcher()), Trial(it, MIX, RATE) as trial:
        trial.promises.offered("demo", 1)
        pids = it.pids()
        for what, text in INVALID.items():
            it.config_path.write_text(text)
            done = it.command("reload")
            assert done.returncode == 78, (what, done)
            assert "error[E-CFG-" in done.stderr, (what, done)
            assert "Traceback" not in done.stderr
            assert it.pids() == pids, what
            status = it.status()
            assert (status["ready"], status["generation"]) == (True, 1), what
            assert status["reload_error"], what
        it.config_path.unlink()
        gone = it.command("reload")
        assert gone.returncode in (66, 78), gone
        assert str(it.config_path) in gone.stderr
        trial.promises.offered("demo", 2)
        it.configure(models=models(it, 2))
        it.order("reload")
        trial.promises.tag("demo", 2)
        assert (it.status()["generation"], it.status()["reload_error"]) == (2, None)
        assert_clean(it, trial)


@pytest.mark.parametrize("rollout", ["surge", "hold"])
def test_a_new_configuration_that_does_not_start_is_rolled_back(rollout: str) -> None:
    """Beside it the old one never stops; in its place it comes back."""
    with (it := launcher()), Trial(it, MIX, RATE) as trial:
        trial.promises.offered("demo", 1)
        pids = it.pids()
        failing = models(it, 2, fail_in="weights")
        failing["demo"]["rollout"] = rollout
        failing["other"] = models(it, 1, fail_in="server")["demo"]
        it.configure(models=failing)
        done = it.command("reload")
        assert done.returncode != 0, done
        assert "the script fails in weights" in done.stdout + done.stderr
        assert "the script fails in server" in done.stdout + done.stderr
        assert [one["model"] for one in it.instances()] == ["demo"]
        assert (it.pids() == pids) == (rollout == "surge")
        assert it.health() == "ready: demo"
        it.configure(models=models(it, 1))
        it.order("reload")
        assert_clean(it, trial)


# ---- R2: a file that is written while it is read ------------------------------------------------------------------


def in_place(path: Path, text: str) -> None:
    """The worst of editors: empty first, then piece by piece."""
    with path.open("w") as file:
        for start in range(0, len(text), 100):
            file.write(text[start : start + 100])
            file.flush()


def renamed(path: Path, text: str) -> None:
    new = path.with_suffix(".tmp")
    new.write_text(text)
    new.replace(path)


def swapped() -> Callable[[Path, str], None]:
    """As Kubernetes does with a ConfigMap: the file is a link into `..data`, which is a link to a directory."""
    numbers = itertools.count()

    def swap(path: Path, text: str) -> None:
        real = path.parent / f"..{next(numbers)}"
        real.mkdir()
        (real / path.name).write_text(text)
        link, data = path.parent / "..data.tmp", path.parent / "..data"
        link.symlink_to(real.name)
        link.replace(data)
        if not path.is_symlink():
            path.unlink()
            path.symlink_to(Path("..data") / path.name)

    return swap


class Census(threading.Thread):
    """Looks all the time how many instances of a model there are."""

    def __init__(self, it: Launcher) -> None:
        super().__init__(daemon=True)
        self._it, self._over, self.most = it, threading.Event(), 0
        self.start()

    def run(self) -> None:
        while not self._over.wait(0.01):
            self.most = max(self.most, len(self._it.instances()))

    def stop(self) -> int:
        self._over.set()
        self.join(5)
        return self.most


@pytest.mark.volume
@pytest.mark.parametrize("write", [in_place, renamed, swapped()], ids=["in place", "renamed", "swapped"])
def test_a_file_that_never_rests_ends_in_its_last_whole_state(write: Callable[[Path, str], None]) -> None:
    """With `reload.watch`: a thousand writes a second, and then none."""
    with (it := launcher(reload={"watch": True})), Trial(it, MIX, RATE) as trial:
        census, last = Census(it), 1
        for _ in range(4):
            for tag in paced(last + 1, 500, 0.001):
                trial.promises.offered("demo", tag)
                write(it.config_path, it.describe(models=models(it, tag)))
            last += 500
            it.wait_for(lambda tag=last: answering_tag(it) == tag, 20)
            trial.promises.tag("demo", last)
        assert census.stop() <= 2, "more than one reload at a time"
        assert_clean(it, trial)


def paced(first: int, count: int, every_s: float) -> Iterator[int]:
    due = time.monotonic()
    for number in range(first, first + count):
        yield number
        due += every_s
        time.sleep(max(0.0, due - time.monotonic()))


def answering_tag(it: Launcher) -> int:
    status, body = ask(
        it.port, "POST", "/v1/completions", json.dumps({"model": "demo", "prompt": "Hi", "max_tokens": 1})
    )
    assert status == 200, body
    return int(json.loads(body)["system_fingerprint"])


def test_a_half_written_file_that_rests_changes_nothing() -> None:
    with (it := launcher(reload={"watch": True})), Trial(it, MIX, RATE) as trial:
        trial.promises.offered("demo", 1)
        pids, whole = it.pids(), it.config_path.read_text()
        it.config_path.write_text(whole[: len(whole) // 2] + "\n  {")
        it.wait_for(lambda: "nothing was changed" in it.lines(), 10)
        assert it.pids() == pids
        it.configure(models=models(it, 1))
        assert_clean(it, trial)


# ---- R5: who asks too often, or too late --------------------------------------------------------------------------


@pytest.mark.volume
def test_a_storm_of_hang_ups_is_one_reload_after_the_other_and_ends_in_the_last_file() -> None:
    with (it := launcher()), Trial(it, MIX, RATE) as trial:
        census = Census(it)
        for tag in paced(2, 200, 0.005):
            trial.promises.offered("demo", tag)
            it.configure(models=models(it, tag))
            it.hang_up()
        it.wait_for(lambda: answering_tag(it) == 201, 20)
        trial.promises.tag("demo", 201)
        assert census.stop() <= 2
        assert 1 < it.status()["generation"] < 50, "they were not put together"
        assert_clean(it, trial)


def test_many_who_ask_at_once_are_all_answered_by_few_reloads() -> None:
    with launcher() as it:
        it.wait_ready()
        it.configure(models=models(it, 2))
        with ThreadPoolExecutor(8) as pool:
            done = list(pool.map(lambda _: it.command("reload"), range(8)))
        assert [one.returncode for one in done] == [0] * 8, done
        assert answering_tag(it) == 2
        assert it.status()["generation"] == 2
        assert it.stop() == 0


def test_a_reload_during_the_drain_is_refused_in_one_line_and_disturbs_nobody() -> None:
    it = launcher()
    it.configure(models=models(it, 1, token_s=0.05))
    with it:
        it.wait_ready()
        stream = Stream(it.port, 40)
        it.wait_for(lambda: stream.words > 2, 5)
        it.process.send_signal(signal.SIGTERM)
        it.wait_for(lambda: it.health().startswith("draining"), 5)
        it.configure(models=models(it, 2))
        it.hang_up()
        refused = it.command("reload")
        assert refused.returncode != 0
        assert len(refused.stderr.strip().splitlines()) == 1
        assert it.wait() == 0, it.lines()
        stream.join(5)
        assert stream.is_complete
        it.assert_nothing_left()
