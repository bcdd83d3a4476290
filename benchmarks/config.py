"""What the small commands cost: checking a configuration, asking for health, and opening the port."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.contenders import Ichat, model_of
from benchmarks.figures import Goal, Row, median_row
from benchmarks.machine import ROOT
from benchmarks.options import Options, say
from ichat.errors import ExitCode

_ENTRYPOINT = str(ROOT / "entrypoint")
_WRONG = """\
server: {port: 8000}
models:
  demo:
    tensor_paralel_size: 2
    context_length: -1
"""
_ANSWERS = Goal(0.3, is_upper=True)
_HEALTH_MS = Goal(20, is_upper=True)


@dataclass
class _Runs:
    """Of one command: wall time, and CPU of the command with everything that it started and waited for."""

    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    def add(self, argv: Sequence[str], env: Mapping[str, str], *, code: int, says: str) -> None:
        """Run it once; RuntimeError unless it ends with ``code`` and says what it should."""
        with tempfile.TemporaryFile() as output:
            began = time.perf_counter()
            process = subprocess.Popen(argv, env=dict(env), stdin=subprocess.DEVNULL, stdout=output, stderr=output)
            _, status, usage = os.wait4(process.pid, 0)
            self.wall_s.append(time.perf_counter() - began)
            self.cpu_s.append(usage.ru_utime + usage.ru_stime)
            process.returncode = os.waitstatus_to_exitcode(status)
            output.seek(0)
            said = output.read().decode(errors="replace")
        if process.returncode != code or says not in said:
            raise RuntimeError(
                f"{' '.join(argv)}: ended with {process.returncode}, wanted {code} and {says!r}; it said:\n{said}"
            )


def run(options: Options) -> list[Row]:
    return [*_configuration(options), *_health(options), *_port(options)]


def _configuration(options: Options) -> list[Row]:
    say("ichat config, right and wrong")
    env = {name: value for name, value in os.environ.items() if not name.startswith("ICHAT_")}
    right, wrong = _Runs(), _Runs()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "wrong.yaml"
        path.write_text(_WRONG)
        arguments = ["--model-path", str(options.model)]
        for _ in range(options.rounds_or(21, quick=3)):
            right.add([_ENTRYPOINT, "config", *arguments], env, code=0, says="start_s")
            wrong.add(
                [_ENTRYPOINT, "serve", *arguments],
                env | {"ICHAT_CONFIG": str(path)},
                code=ExitCode.CONFIG,
                says="did you mean 'tensor_parallel_size'?",
            )
    return [
        median_row("ichat config", right.wall_s, unit="s", goal=_ANSWERS),
        median_row("ichat config: CPU", right.cpu_s, unit="s", goal=_ANSWERS),
        median_row("a wrong configuration is refused", wrong.wall_s, unit="s", goal=_ANSWERS),
        median_row("a wrong configuration is refused: CPU", wrong.cpu_s, unit="s", goal=_ANSWERS),
    ]


def _health(options: Options) -> list[Row]:
    say("ichat health, of an ichat with the scripted engine")
    runs = _Runs()
    with Ichat(model_of("fake", options.model)) as ichat:
        ichat.first_answer_s("/readyz")
        for _ in range(options.rounds_or(51, quick=5)):
            runs.add([_ENTRYPOINT, "health"], ichat.env, code=0, says="ready")
    return [
        median_row("ichat health: CPU", [cpu_s * 1e3 for cpu_s in runs.cpu_s], unit="ms", goal=_HEALTH_MS),
        median_row("ichat health", [wall_s * 1e3 for wall_s in runs.wall_s], unit="ms"),
    ]


def _port(options: Options) -> list[Row]:
    """With a real engine: its imports compete for the CPU from the first moment."""
    say("ichat serve until its port answers")
    took = []
    for _ in range(options.rounds_or(7)):
        with Ichat(model_of(options.engines[0], options.model)) as ichat:
            took.append(ichat.first_answer_s("/livez"))
    return [median_row("exec until the public port answers", took, unit="s")]
