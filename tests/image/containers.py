"""One container of the image, as its user would start and look at it."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from typing import Any, Self

from tests.image.engine import IMAGE, docker
from tests.launcher_process import ask

#: How an orchestrator that trusts nobody runs it: any uid, nothing writable but two tmpfs, no rights, no network.
HARDENED = (
    "--user", "123456:0", "--read-only", "--tmpfs", "/tmp", "--tmpfs", "/run/ichat", "--cap-drop", "ALL",
    "--security-opt", "no-new-privileges", "--network", "none",
)  # fmt: skip
STEP_S = 0.05


class Container:
    """``with Container("--option", argv=[…], ICHAT_BACKEND="vllm") as it:`` runs one; it is removed in the end."""

    def __init__(self, *options: str, argv: tuple[str, ...] = (), port: int = 8000, **env: str) -> None:
        self._options, self._argv, self._env, self._inner = options, argv, env, port
        self.backend = env.get("ICHAT_BACKEND", "vllm")

    def __enter__(self) -> Self:
        env = [word for name, value in self._env.items() for word in ("--env", f"{name}={value}")]
        network = () if "--network" in self._options else ("--publish", f"127.0.0.1::{self._inner}")
        self.began = time.monotonic()
        self.id = docker("run", "--detach", *network, *env, *self._options, IMAGE, *self._argv)
        return self

    def __exit__(self, *_: object) -> None:
        docker("rm", "--force", "--volumes", self.id)

    # ---- what it says -----------------------------------------------------------------------------------------

    def inspect(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(docker("inspect", self.id))[0]
        return found

    @property
    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = self.inspect()["State"]
        return state

    @property
    def health(self) -> str:
        """What Docker has made of HEALTHCHECK: starting, healthy, unhealthy."""
        return str(self.state["Health"]["Status"])

    def logs(self) -> str:
        done = subprocess.run(["docker", "logs", self.id], capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    def exec(self, *argv: str, check: bool = True) -> str:
        return docker("exec", self.id, *argv, check=check)

    def words(self) -> str:
        """`ichat health`, asked inside."""
        return self.exec("ichat", "health", check=False)

    @property
    def port(self) -> int:
        """On this machine; another one after each start of the container."""
        return int(docker("port", self.id, str(self._inner)).splitlines()[0].rpartition(":")[2])

    @property
    def headers(self) -> dict[str, str]:
        return {"Content-Type": "application/json"}

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, str]:
        """(status, body) of the published port; (0, why) when nobody answers."""
        return ask(self.port, method, path, None if body is None else json.dumps(body), self.headers | headers)

    def chat(self, question: str, model: str = "demo", **headers: str) -> str:
        """The answer of the model; AssertionError when there is none."""
        body = {"model": model, "messages": [{"role": "user", "content": question}], "temperature": 0}
        status, text = self.ask("POST", "/v1/chat/completions", body, **headers)
        assert status == 200, text
        return str(json.loads(text)["choices"][0]["message"]["content"])

    def processes(self) -> dict[str, int]:
        """Command line → pid inside, of all that live."""
        # Titles of engines end in blanks; zombies have no command line.
        script = 'for p in /proc/[0-9]*; do echo "${p#/proc/} $(tr "\\0" " " < $p/cmdline)"; done 2>/dev/null'
        found = {}
        for line in self.exec("sh", "-c", script).splitlines():
            pid, _, command = line.partition(" ")
            if command.strip():
                found[command.strip()] = int(pid)
        return found

    def kill(self, title: str) -> None:
        """SIGKILL to the process of this title, from inside."""
        pid = next(pid for command, pid in self.processes().items() if command.startswith(title))
        self.exec("sh", "-c", f"kill -9 {pid}")

    # ---- waiting ----------------------------------------------------------------------------------------------

    def wait_for(self, condition: Callable[[], Any], limit_s: float) -> Any:
        end = time.monotonic() + limit_s
        while not (value := condition()):
            if time.monotonic() > end:
                raise AssertionError(f"not within {limit_s} s: {self.state}; the log says:\n{self.logs()[-4000:]}")
            time.sleep(STEP_S)
        return value

    def wait_healthy(self, limit_s: float = 120) -> Self:
        self.wait_for(lambda: self._is("healthy", lambda: self.health == "healthy"), limit_s)
        return self

    def wait_ready(self, limit_s: float = 120) -> Self:
        """Ready by its own word, which Docker repeats at the next probe."""
        self.wait_for(lambda: self._is("ready", lambda: self.words().startswith("ready")), limit_s)
        return self

    def _is(self, wanted: str, condition: Callable[[], bool]) -> bool:
        """AssertionError when it has ended for good instead."""
        assert self.state["Status"] != "exited", f"ended before it was {wanted}; the log says:\n{self.logs()[-4000:]}"
        return condition()

    def stop(self, grace_s: int = 40) -> tuple[int, float]:
        """`docker stop`: the exit code, and the seconds it took."""
        began = time.monotonic()
        docker("stop", "--time", str(grace_s), self.id)
        return self.exit_code(), time.monotonic() - began

    def exit_code(self, limit_s: float = 30) -> int:
        self.wait_for(lambda: self.state["Status"] == "exited", limit_s)
        return int(self.state["ExitCode"])


def run_once(*options: str, argv: tuple[str, ...] = (), **env: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a container that ends by itself."""
    variables = [word for name, value in env.items() for word in ("--env", f"{name}={value}")]
    command = ["docker", "run", "--rm", *variables, *options, IMAGE, *argv]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout, done.stderr


def error_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("ichat: error[")]
