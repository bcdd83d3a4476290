"""Who is compared: an engine's own server and ichat, with the same model, flags and environment."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from benchmarks.load import Address
from benchmarks.machine import ROOT
from benchmarks.process_tree import ProcessTree
from ichat.backends import engines
from ichat.config.schema import Model
from ichat.launcher import environment

NAME = "demo"
_START_LIMIT_S = 300.0
_ASK_EVERY_S = 0.02

#: No compilation and a small cache, as suits a small model; no line for each request on either side.
_ENGINE_ARGS: dict[str, dict[str, Any]] = {
    "vllm": {"enforce-eager": True, "kv-cache-memory-bytes": 2**28, "disable-uvicorn-access-log": True},
    "sglang": {"log-level-http": "warning"},
}
_OWN_SERVERS = {"vllm": "vllm.entrypoints.openai.api_server", "sglang": "sglang.launch_server"}
TITLES = {"vllm": "vLLM", "sglang": "SGLang"}


def installed() -> list[str]:
    """The engines that have an environment here."""
    return [name for name in _OWN_SERVERS if (ROOT / ".venvs" / name / "bin" / "python").exists()]


def model_of(engine: str, path: Path, **settings: Any) -> Model:
    """The model, as both sides serve it."""
    return Model(
        name=NAME,
        backend=engine,  # type: ignore[arg-type]
        model_path=str(path.resolve()),
        context_length=1024,
        engine_args=_ENGINE_ARGS.get(engine, {}),
        **settings,
    )


class Server:
    """``with`` one; it listens at ``address`` as soon as it pleases to."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], port: int, folder: Path) -> None:
        self.address = Address(port=port)
        self.tree = ProcessTree(argv, env=env, folder=folder)
        self._folder = folder

    def __enter__(self) -> Self:
        self.tree.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.tree.__exit__()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def first_token_s(self) -> float:
        """Seconds from its exec until a completion of one token was answered."""
        body = json.dumps({"model": NAME, "prompt": "Hi", "max_tokens": 1, "temperature": 0})
        self._wait_for("POST", "/v1/completions", body)
        return time.perf_counter() - self.tree.began

    def first_answer_s(self, path: str) -> float:
        """Seconds from its exec until ``path`` was answered with 200."""
        self._wait_for("GET", path, None)
        return time.perf_counter() - self.tree.began

    def _wait_for(self, method: str, path: str, body: str | None) -> None:
        while time.perf_counter() < self.tree.began + _START_LIMIT_S:
            asked_at = time.perf_counter()
            if _status(self.address.port, method, path, body) == 200:
                return
            self.tree.assert_lives()
            time.sleep(max(0, asked_at + _ASK_EVERY_S - time.perf_counter()))
        raise RuntimeError(f"{path}: no answer within {_START_LIMIT_S:.0f} s; it said:\n{self.tree.said()[-3000:]}")


class OwnServer(Server):
    """The engine's own command line, with the arguments and the environment that ichat would give the engine."""

    def __init__(self, model: Model) -> None:
        accelerator, port, folder = environment.accelerator_of(model), free_port(), _folder()
        argv = [environment.python_of(model), "-m", _OWN_SERVERS[model.backend]]
        argv += engines.ARGS[model.backend].to_argv(model, accelerator=accelerator)
        tmp = folder / "tmp"
        tmp.mkdir()
        env = environment.for_worker(inherited_environment(), model, str(tmp))
        del env["ICHAT_PDEATHSIG"]
        super().__init__([*argv, "--host=127.0.0.1", f"--port={port}"], env, port, folder)


class Ichat(Server):
    """``./entrypoint serve``; ``backend: fake`` is served from the environment that has it."""

    def __init__(self, model: Model) -> None:
        port, folder = free_port(), _folder()
        self.run_dir = folder / "run"
        content = {
            "server": {"host": "127.0.0.1", "port": port},
            # Nobody routes to us: there is nobody to wait for when we leave. A failure ends the benchmark.
            "timeouts": {"linger_s": 0},
            "restarts": {"enabled": False},
            "models": {
                NAME: model.model_dump(mode="json", exclude={"name"}, exclude_defaults=True)
                | {"backend": model.backend}
            },
        }
        (folder / "configs.yaml").write_text(json.dumps(content, indent=1))  # every JSON is YAML
        self.env = inherited_environment() | {
            "ICHAT_CONFIG": str(folder / "configs.yaml"),
            "ICHAT_RUN_DIR": str(self.run_dir),
        }
        fake = [str(ROOT / ".venvs" / "dev" / "bin" / "python"), "-m", "ichat"]
        command = fake if model.backend == "fake" else [str(ROOT / "entrypoint")]
        super().__init__([*command, "serve"], self.env, port, folder)

    @property
    def worker_address(self) -> Address:
        """The engine's app behind the front."""
        (found,) = self.run_dir.glob("w/*/http.sock")
        return Address(socket_path=str(found))


def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="ichat-bench-"))


def inherited_environment() -> dict[str, str]:
    """Without settings of ichat; bytecode may be kept, as in an installation."""
    left_out = {"PYTHONDONTWRITEBYTECODE", "PYTHONPATH"}
    return {name: value for name, value in os.environ.items() if not name.startswith("ICHAT_") and name not in left_out}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def _status(port: int, method: str, path: str, body: str | None) -> int:
    """Of one request on a connection of its own; 0: there was no answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        answer = connection.getresponse()
        answer.read()
        return answer.status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()
