"""A real launcher with the real front and a fake engine, started as a user starts it, for tests of faults."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
#: Every process of one launcher inherits it, so that survivors can be found wherever they have gone.
MARK = "TEST_LAUNCHER_MARK"
ICHAT = (sys.executable, "-m", "ichat")
STEP_S = 0.002
_FAKE = {"backend": "fake", "model_path": "fake/model"}


class Launcher:
    """``with Launcher() as it:`` starts `ichat serve` on a free port; what is left of it afterwards is killed.

    ``engine_args`` is the script of the fake engine of the only model, ``demo``. Sections of the configuration are
    given by name; with ``models`` there are those instead, on the fake engine where they do not say otherwise.
    """

    def __init__(
        self,
        *,
        engine_args: dict[str, Any] | None = None,
        command: tuple[str, ...] = ICHAT,
        env: dict[str, str] | None = None,
        stderr: int | None = None,
        **sections: dict[str, Any],
    ) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="ichat-test-"))
        self.run_dir = self.home / "run"
        self.log = self.home / "log"
        self.tmp = self.home / "tmp"
        self.tmp.mkdir()
        self.mark = uuid.uuid4().hex
        self._command, self._stderr, self._env = command, stderr, env or {}
        self._port: int | None = None
        self._config: dict[str, Any] = {
            "server": {"host": "127.0.0.1", "port": 0}, "models": {"demo": _FAKE | {"engine_args": engine_args or {}}}
        }  # fmt: skip
        self.configure(**sections)

    def configure(self, **sections: dict[str, Any]) -> None:
        """Rewrite the configuration file as a careful editor does, whole or not at all. Who reads it is not told."""
        new = self.config_path.with_suffix(".new")
        new.write_text(self.describe(**sections))
        new.replace(self.config_path)

    def describe(self, **sections: dict[str, Any]) -> str:
        """The text of the file with these sections: ``models`` replaces all of them, others change what they name."""
        for name, section in sections.items():
            before = {} if name == "models" else self._config.get(name, {})
            self._config[name] = {**before, **section}
        self._config["models"] = {name: _FAKE | model for name, model in self._config["models"].items()}
        return yaml.safe_dump(self._config)

    @property
    def config_path(self) -> Path:
        return self.home / "configs.yaml"

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ICHAT_")}
        # Compiled once, not at each of thousands of starts.
        kept.pop("PYTHONDONTWRITEBYTECODE", None)
        ours = {
            "ICHAT_CONFIG": str(self.config_path),
            "ICHAT_RUN_DIR": str(self.run_dir),
            MARK: self.mark,
            "TMPDIR": str(self.tmp),
        }
        return {**kept, **ours, **self._env}

    def start(self) -> Launcher:
        with self.log.open("ab") as log:
            self.began = time.monotonic()
            self.process = subprocess.Popen(
                [*self._command, "serve"],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log if self._stderr is None else self._stderr,
                cwd=self.home,
            )
        return self

    def __enter__(self) -> Launcher:
        return self.start()

    def __exit__(self, *_: object) -> None:
        for pid in self.survivors():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        shutil.rmtree(self.home, ignore_errors=True)

    # ---- what it says -----------------------------------------------------------------------------------------

    @property
    def port(self) -> int:
        if self._port is None:
            found = self.wait_for(lambda: re.search(r"listening on https?://\S+:(\d+)", self.lines()), 5)
            self._port = int(found[1])
        return self._port

    def lines(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def get(self, path: str, *, timeout_s: float = 5) -> tuple[int, str]:
        """(status, body) of the public port; (0, why) when there is no answer."""
        return ask(self.port, "GET", path, timeout_s=timeout_s)

    def probe(self, path: str) -> tuple[int, str]:
        """The same from the launcher's probe socket."""
        with contextlib.suppress(OSError, IndexError, ValueError), socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(5)
            sock.connect(str(self.run_dir / "ichat.sock"))
            sock.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            answer = b""
            while data := sock.recv(65536):
                answer += data
            head, _, body = answer.partition(b"\r\n\r\n")
            return int(head.split()[1]), body.decode()
        return 0, ""

    def health(self) -> str:
        return self.probe("/health")[1].strip()

    def status(self) -> dict[str, Any]:
        code, body = self.probe("/status")
        return json.loads(body) if code == 200 else {}

    def instances(self) -> list[dict[str, Any]]:
        """Every instance as `ichat status` shows it."""
        return list(self.status().get("instances", []))

    def pids(self) -> dict[str, int]:
        """The process of each instance that has one."""
        return {one["instance"]: one["pid"] for one in self.instances() if one["pid"]}

    @property
    def front_pid(self) -> int:
        """0: there is none now."""
        return int(self.status()["front"]["pid"] or 0)

    @property
    def worker_pid(self) -> int:
        """0: there is none now."""
        return int(self.status()["instances"][0]["pid"] or 0)

    @property
    def restarts(self) -> int:
        return int(self.status()["instances"][0]["restarts"])

    def engine_pids(self) -> list[int]:
        """The processes below the worker."""
        return [pid for pid in self.survivors() if command_line(pid).startswith("FAKE::")]

    # ---- what it is told ----------------------------------------------------------------------------------------

    def command(self, *words: str, limit_s: float = 120) -> subprocess.CompletedProcess[str]:
        """`ichat WORDS …` against this launcher, as a user runs it: exit code, output and error."""
        return subprocess.run(
            [*self._command, *words], env=self._environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            cwd=self.home, timeout=limit_s, check=False,
        )  # fmt: skip

    def order(self, *words: str, limit_s: float = 120) -> str:
        """A command that must go well: its output."""
        done = self.command(*words, limit_s=limit_s)
        if done.returncode:
            raise AssertionError(
                f"{words}: code {done.returncode}: {done.stderr}; the log says:\n{self.lines()[-6000:]}"
            )
        return done.stdout

    def hang_up(self) -> None:
        """SIGHUP: read the configuration again."""
        self.process.send_signal(signal.SIGHUP)

    # ---- waiting ----------------------------------------------------------------------------------------------

    def wait_for(self, condition: Callable[[], Any], limit_s: float) -> Any:
        """The first true value, within the limit."""
        end = time.monotonic() + limit_s
        while not (value := condition()):
            if time.monotonic() > end:
                raise AssertionError(f"not within {limit_s} s; the log says:\n{self.lines()[-4000:]}")
            time.sleep(STEP_S)
        return value

    def wait_ready(self, limit_s: float = 15) -> Launcher:
        self.wait_for(lambda: self.probe("/health")[0] == 200, limit_s)
        return self

    def wait_catching_sigterm(self) -> None:
        """Until Python has got so far that SIGTERM is its own: before, it ends any program by itself."""
        mask = 1 << (signal.SIGTERM - 1)
        status = Path(f"/proc/{self.process.pid}/status")

        def is_caught() -> bool:
            caught = re.search(r"SigCgt:\s*([0-9a-f]+)", status.read_text())
            return bool(caught and int(caught[1], 16) & mask)

        self.wait_for(is_caught, 5)

    def stop(self, number: int = signal.SIGTERM, limit_s: float = 15) -> int:
        """Signal it and wait for its end: the exit code."""
        self.process.send_signal(number)
        return self.wait(limit_s)

    def wait(self, limit_s: float = 15) -> int:
        try:
            return self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still there after {limit_s} s; the log says:\n{self.lines()[-4000:]}") from None

    # ---- what is left -----------------------------------------------------------------------------------------

    def survivors(self) -> list[int]:
        """Everything that lives and was started by this launcher, the launcher included."""
        return [pid for pid in living() if self.mark.encode() in environment(pid)]

    def assert_nothing_left(self, limit_s: float = 1) -> None:
        self.wait_for(lambda: not self.survivors(), limit_s)
        assert not self.run_dir.exists(), list(self.run_dir.rglob("*"))
        assert not list(self.tmp.iterdir())


def ask(
    port: int,
    method: str,
    path: str,
    body: str | None = None,
    headers: dict[str, str] | None = None,
    *,
    timeout_s: float = 60,
) -> tuple[int, str]:
    """(status, body) of one request to this machine; (0, why) when there is no answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except (OSError, http.client.HTTPException) as error:
        return 0, repr(error)
    finally:
        connection.close()


def living() -> Iterator[int]:
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if not re.search(r"^State:\s+[ZX]", Path(f"/proc/{name}/status").read_text(), re.M):
                yield int(name)


def environment(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def zombies_of(pid: int) -> list[int]:
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{name}/status").read_text()
            if re.search(r"^State:\s+Z", status, re.M) and re.search(rf"^PPid:\s+{pid}$", status, re.M):
                found.append(int(name))
    return found


#: A size that nobody else asks for, so that a segment of this size is a fake engine's.
SHM_BYTES = 4097


def shared_memory() -> set[str]:
    """The fake engines' segments."""
    found = set()
    for path in Path("/dev/shm").iterdir():
        with contextlib.suppress(OSError):
            if path.stat().st_size == SHM_BYTES:
                found.add(path.name)
    return found
