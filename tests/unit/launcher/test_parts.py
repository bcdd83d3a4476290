"""The launcher's smaller parts: process table, memory limit, environment, output, sockets, probes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ichat.config.schema import Model, Server
from ichat.errors import ConfigError, TemporaryError
from ichat.launcher import environment, listeners
from ichat.launcher.board import Board
from ichat.launcher.health import Probes
from ichat.launcher.memory_limit import MemoryLimit
from ichat.launcher.output import Output
from ichat.launcher.probe import ask_health, ask_status, probe_socket, table
from ichat.launcher.signals import StopSignals, may_lose_terminal
from ichat.launcher.status import ModelInfo, Status
from ichat.observe.logs import LineWriter
from ichat.system.process_table import Process, descendants_of, read, read_all, read_below, remains_of

# ---- process table --------------------------------------------------------------------------------------------

LAUNCHER, DEAD, LIVING = 10, 20, 30


def process(pid: int, ppid: int, group: int) -> Process:
    return Process(pid, ppid, group, "S", started=1)


TABLE = [
    process(LAUNCHER, 1, 5),
    process(LIVING, LAUNCHER, LIVING),
    process(31, LIVING, LIVING),
    process(32, LIVING, 32),  # has left the group of its worker, which lives
    process(21, LAUNCHER, DEAD),  # an orphan in the dead one's group
    process(22, LAUNCHER, 22),  # an orphan that had left that group
    process(23, 22, 23),
    process(11, LAUNCHER, 5),  # a shell that was there before the launcher was
    process(12, 11, 5),
    process(99, 1, 99),
]


def test_what_is_left_of_a_dead_worker_is_its_group_and_orphans_that_are_nobodys() -> None:
    left = remains_of(DEAD, TABLE, launcher=LAUNCHER, living={LIVING})
    assert {one.pid for one in left} == {21, 22, 23}


def test_a_living_worker_is_the_root_of_its_own_remains() -> None:
    left = remains_of(LIVING, TABLE[:4], launcher=LAUNCHER, living={LIVING})
    assert {one.pid for one in left} == {LIVING, 31, 32}


def test_descendants_are_all_below_and_nothing_else() -> None:
    assert {one.pid for one in descendants_of(LAUNCHER, TABLE)} == {LIVING, 31, 32, 21, 22, 23, 11, 12}


def test_this_process_is_in_the_table() -> None:
    own = read(os.getpid())
    assert own is not None
    assert (own.ppid, own.group, own.is_dead) == (os.getppid(), os.getpgrp(), False)
    assert own in read_below(os.getpid())
    assert own.pid in {one.pid for one in read_all()}
    assert read(2**22 + 1) is None


# ---- memory limit ---------------------------------------------------------------------------------------------


def cgroup(tmp_path: Path, files: dict[str, str], own: str) -> MemoryLimit:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "own").write_text(own)
    return MemoryLimit(tmp_path, tmp_path / "own")


def test_a_kill_for_memory_is_told_with_limit_and_peak(tmp_path: Path) -> None:
    files = {"memory.events": "low 0\noom 3\noom_kill 3\n", "memory.max": "4294967296\n", "memory.peak": "4294967296\n"}
    limit = cgroup(tmp_path, files, "0::/\n")
    assert limit.kills() == 3
    assert limit.hint(3) == ""
    assert limit.hint(2).startswith(" by the kernel's OOM killer (limit 4.0 GiB, peak 4.0 GiB). Give the container")


def test_version_1_is_understood_below_our_own_path(tmp_path: Path) -> None:
    files = {
        "memory/a/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
        "memory/a/memory.limit_in_bytes": "9223372036854771712\n",
        "memory/a/memory.max_usage_in_bytes": "1073741824\n",
    }
    limit = cgroup(tmp_path, files, "4:memory:/a\n0::/\n")
    assert limit.kills() == 1
    assert "(peak 1.0 GiB)" in limit.hint(0)


def test_without_a_cgroup_nothing_is_claimed(tmp_path: Path) -> None:
    limit = MemoryLimit(tmp_path, tmp_path / "none")
    assert limit.kills() is None
    assert limit.hint(None) == ""


# ---- environment ----------------------------------------------------------------------------------------------

MODEL = Model(name="demo", model_path="org/model", backend="vllm", accelerator="cpu", env={"A": "model"})


def test_a_worker_inherits_everything_but_ichats_own_settings() -> None:
    inherited = {"PATH": "/bin", "ICHAT_API_KEY": "secret", "HF_TOKEN": "token", "A": "user", "DO_NOT_TRACK": "0"}
    env = environment.for_worker(inherited, MODEL, "/run/w/1/tmp")
    assert "secret" not in env.values()
    assert env["HF_TOKEN"] == "token"
    assert env["A"] == "model"
    assert env["DO_NOT_TRACK"] == "0"
    assert env["VLLM_NO_USAGE_STATS"] == "1"
    assert env["TMPDIR"] == env["VLLM_RPC_BASE_PATH"] == "/run/w/1/tmp"
    assert env["ICHAT_PDEATHSIG"] == "1"
    assert int(env["OMP_NUM_THREADS"]) == max(1, len(os.sched_getaffinity(0)) - 1)


def test_a_worker_finds_the_programs_and_the_compiler_of_its_engine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "ichat"))
    cuda = tmp_path / "vllm" / "lib" / "python3.12" / "site-packages" / "nvidia" / "cu13"
    (cuda / "bin").mkdir(parents=True)
    (cuda / "bin" / "nvcc").touch()
    model = MODEL.model_copy(update={"accelerator": "cuda"})
    env = environment.for_worker({"PATH": "/bin"}, model, "/t")
    assert env["PATH"] == f"{tmp_path}/vllm/bin:/bin"
    assert env["CUDA_HOME"] == str(cuda)
    assert environment.for_worker({"CUDA_HOME": "/mine"}, model, "/t")["CUDA_HOME"] == "/mine"
    assert "CUDA_HOME" not in environment.for_worker({}, MODEL, "/t")


def test_sglang_on_a_cpu_gets_a_quicker_allocator_and_nobody_else_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(environment, "SYSTEM_LIBRARIES", tmp_path)
    sglang, gpu = ({"backend": "sglang"} | more for more in ({}, {"accelerator": "cuda"}))
    on_cpu, on_gpu = (MODEL.model_copy(update=changes) for changes in (sglang, gpu))
    assert "LD_PRELOAD" not in environment.for_worker({}, on_cpu, "/t")
    allocator = tmp_path / "any-linux" / "libtcmalloc_minimal.so.4"
    allocator.parent.mkdir()
    allocator.touch()
    assert environment.for_worker({}, on_cpu, "/t")["LD_PRELOAD"] == str(allocator)
    assert environment.for_worker({"LD_PRELOAD": "/mine.so"}, on_cpu, "/t")["LD_PRELOAD"] == "/mine.so"
    others = [environment.for_worker({}, model, "/t") for model in (on_gpu, MODEL)]
    assert not any("LD_PRELOAD" in env for env in (*others, environment.for_front({})))


def test_what_ichat_frees_is_not_called_leaked_and_other_warnings_are_kept() -> None:
    say = "import warnings; warnings.warn('resource_tracker: leaked'); warnings.warn('other')"
    env = environment.for_worker({}, MODEL, "/t")
    told = subprocess.run([sys.executable, "-c", say], env=env, capture_output=True, text=True, check=True).stderr
    assert "leaked" not in told
    assert "other" in told


def test_the_users_number_of_threads_wins() -> None:
    assert environment.for_worker({"OMP_NUM_THREADS": "7"}, MODEL, "/t")["OMP_NUM_THREADS"] == "7"


def test_a_front_knows_no_token() -> None:
    env = environment.for_front({"PATH": "/bin", "HF_TOKEN": "token", "ICHAT_API_KEY": "secret"})
    assert set(env) == {"PATH", "OPENSSL_CONF"}


def test_a_front_agrees_only_on_keys_that_cost_it_little_unless_the_user_has_said_otherwise() -> None:
    ours = Path(environment.for_front({})["OPENSSL_CONF"]).read_text(encoding="utf-8")
    assert "Groups = X25519:P-256:P-384" in ours
    assert environment.for_front({"OPENSSL_CONF": "/etc/mine"}) == {"OPENSSL_CONF": "/etc/mine"}


def test_a_missing_environment_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "ichat"))
    with pytest.raises(ConfigError, match="Run `make setup`") as found:
        environment.python_of(MODEL)
    assert found.value.exit_code == 78


def test_an_engine_of_a_version_that_is_not_served_is_refused_before_a_worker_is_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "ichat"))
    model = MODEL.model_copy(update={"backend": "sglang"})
    home = tmp_path / "sglang"
    (home / "lib/python3.11/site-packages/sglang-0.5.5.dist-info").mkdir(parents=True)
    (home / "bin").mkdir()
    (home / "bin/python").touch()
    with pytest.raises(ConfigError, match=r"SGLang 0\.5\.5 is installed") as found:
        environment.python_of(model)
    assert found.value.exit_code == 78
    monkeypatch.setenv("ICHAT_ALLOW_UNTESTED_ENGINE", "1")
    assert environment.python_of(model) == str(home / "bin/python")
    assert environment.for_worker({"ICHAT_ALLOW_UNTESTED_ENGINE": "1", "ICHAT_API_KEY": "k"}, model, "/t").keys() & {
        "ICHAT_ALLOW_UNTESTED_ENGINE", "ICHAT_API_KEY"
    } == {"ICHAT_ALLOW_UNTESTED_ENGINE"}  # fmt: skip


# ---- output ---------------------------------------------------------------------------------------------------


async def printed(log_format: str, *chunks: bytes) -> list[str]:
    reading, writing = os.pipe()
    writer = LineWriter(writing)
    output = Output(writer, log_format)
    with output.open("demo/0") as theirs:
        for chunk in chunks:
            theirs.write(chunk)
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.01)
    output.close()
    writer.close()
    os.close(writing)
    with open(reading, "rb") as lines:
        return lines.read().decode().splitlines()


async def test_childrens_lines_pass_verbatim_also_in_pieces_and_without_an_end() -> None:
    assert await printed("text", b"one\ntw", b"o\r\n50%\r", b"100%\r\n\nlast") == ["one", "two", "50%", "100%", "last"]


async def test_in_json_what_is_not_json_is_wrapped() -> None:
    lines = [json.loads(line) for line in await printed("json", b'{"event": "ready"}\nplain\n')]
    assert lines[0] == {"event": "ready"}
    assert (lines[1]["subject"], lines[1]["line"]) == ("demo/0", "plain")


# ---- public sockets -------------------------------------------------------------------------------------------


def test_port_0_takes_a_free_one_and_listens() -> None:
    (sock,) = listeners.listen(Server(host="127.0.0.1", port=0))
    with sock, socket.create_connection(sock.getsockname(), 1):
        assert sock.getsockname()[1] > 0


def test_a_name_listens_on_all_its_addresses_on_one_port() -> None:
    sockets = listeners.listen(Server(host="localhost", port=0))
    assert len({sock.getsockname()[1] for sock in sockets}) == 1
    for sock in sockets:
        sock.close()


def test_ipv6_any_takes_ipv4_too() -> None:
    (sock,) = listeners.listen(Server(host="::", port=0))
    with sock, socket.create_connection(("127.0.0.1", sock.getsockname()[1]), 1):
        assert sock.family == socket.AF_INET6


def test_a_busy_port_names_its_holder() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(TemporaryError, match=rf"server.port: {port} is in use by pid {os.getpid()} \("):
            listeners.listen(Server(host="127.0.0.1", port=port))


@pytest.mark.parametrize("host", ["203.0.113.7", "no such host"])
def test_an_address_that_is_not_ours_is_a_configuration_error(host: str) -> None:
    with pytest.raises(ConfigError, match="is no address of this machine"):
        listeners.listen(Server(host=host, port=0))


# ---- signals --------------------------------------------------------------------------------------------------


@pytest.fixture
def signals() -> Iterator[StopSignals]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield StopSignals()
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_before_anything_was_started_ends_us_at_once() -> None:
    script = (
        "from ichat.launcher.signals import StopSignals; StopSignals(); import signal; signal.raise_signal(15); 1 / 0"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("is_tty", "pid", "parent", "ends"),
    [(True, 4711, 4710, True), (False, 4711, 4710, False), (True, 1, 0, False), (True, 7, 1, False)],
)
def test_sighup_ends_only_what_has_a_terminal_to_lose(is_tty: bool, pid: int, parent: int, ends: bool) -> None:
    """With `tty: true` a container's first process has a terminal, and SIGHUP still means: read the configuration."""
    assert may_lose_terminal(is_tty=is_tty, pid=pid, parent=parent) is ends


async def test_a_signal_before_anybody_listens_is_told_later(signals: StopSignals) -> None:
    told = asyncio.Event()
    signals.hold()
    signal.raise_signal(signal.SIGTERM)
    signals.attach(asyncio.get_running_loop(), told.set, lambda: None)
    async with asyncio.timeout(5):
        await told.wait()
    told.clear()
    signal.raise_signal(signal.SIGINT)
    async with asyncio.timeout(5):
        await told.wait()
    assert [one.name for one in signals.received] == ["SIGTERM", "SIGINT"]


# ---- probes ---------------------------------------------------------------------------------------------------


@pytest.fixture
async def board(tmp_path: Path) -> Board:
    board = Board()
    board.front_words = None
    board.post_model(ModelInfo("demo", ("demo",), "fake", hold_s=0))
    board.post(Status("demo/0", "demo", "fake", detail="weights", since=board.clock()))
    return board


async def ask(path: Path, request: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(request)
    try:
        return await asyncio.wait_for(reader.read(), 5)
    finally:
        writer.close()


async def test_probes_answer_from_memory_and_survive_garbage(board: Board, tmp_path: Path) -> None:
    path = tmp_path / "ichat.sock"
    probes = Probes(board, board.status)
    await probes.open(str(path))
    try:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert (await asyncio.to_thread(ask_health, path))[1].startswith("loading demo: weights, ")
        status = await asyncio.to_thread(ask_status, path)
        assert status is not None
        assert table(status)[-1].split()[:4] == ["demo", "demo/0", "fake", "starting"]
        assert (await ask(path, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")).startswith(b"HTTP/1.0 503 ")
        assert (await ask(path, b"GET /nothing HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.0 404 ")
        assert (await ask(path, b"POST /health HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.0 405 ")
        assert (await ask(path, b"\x16\x03\x01\x00\n\n")).startswith(b"HTTP/1.0 405 ")
        assert (await ask(path, b"x" * 100_000)).startswith(b"HTTP/1.0 405 ")
    finally:
        probes.close()


async def test_probes_that_hang_are_cut_off_for_newer_ones(board: Board, tmp_path: Path) -> None:
    path = tmp_path / "ichat.sock"
    probes = Probes(board, board.status)
    await probes.open(str(path))
    try:
        hanging = [await asyncio.open_unix_connection(str(path)) for _ in range(100)]
        assert (await ask(path, b"GET /health HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.0 503 ")
        for _, writer in hanging:
            writer.close()
    finally:
        probes.close()


def test_nobody_there_is_not_running(tmp_path: Path) -> None:
    path = probe_socket({"ICHAT_RUN_DIR": str(tmp_path / "none")})
    assert ask_health(path) == (False, f"not running: nobody answers in {tmp_path / 'none'}")
    assert ask_status(path) is None
