"""The proof as tests, one for each check on each engine: `make gpu-proof` seen through pytest. They need a GPU."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import machine
from ichat.backends.engines import ARGS
from ichat.config.schema import Model
from tests.gpu.bench import Server, Site
from tests.gpu.device import Device, NoDeviceError, chosen
from tests.gpu.stages import GIVEN, STAGES, Stage
from tests.real_engine import ENGINES
from tests.worker_process import python_of

CHECKS = [
    (engine, stage.name, check.name)
    for stage in STAGES for engine in ENGINES for check in stage.checks if stage.name != GIVEN
]  # fmt: skip


#: What the checks look for in the engines' logs, as the installed sources write it: (engine, file, words).
LINES = [
    ("vllm", "vllm/v1/worker/gpu_model_runner.py", "Graph capturing finished in "),
    ("vllm", "vllm/v1/sample/ops/topk_topp_sampler.py", "Using FlashInfer for top-p & top-k sampling"),
    ("vllm", "vllm/v1/sample/ops/topk_topp_sampler.py", "FlashInfer top-p/top-k sampling unavailable"),
    ("vllm", "vllm/utils/system_utils.py", "We must use the `spawn` multiprocessing start method"),
    ("vllm", "torch/cuda/__init__.py", "Cannot re-initialize CUDA in forked subprocess"),
    ("sglang", "sglang/srt/model_executor/model_runner_components/cuda_graph_setup.py", '"cuda": "CUDA graph"'),
    ("sglang", "sglang/srt/model_executor/model_runner_components/cuda_graph_setup.py", "[model_runner.device]} end. "),
    ("sglang", "sglang/srt/entrypoints/engine.py", "server_args={server_args.resolved_dict()}"),
]


def gpu_or_why() -> str:
    """Nothing where there is one."""
    try:
        Device(chosen(os.environ)).facts()
    except NoDeviceError as error:
        return f"needs a GPU: {error}"
    return ""


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, str], dict[str, Any]]:
    """What one run of the whole proof has found."""
    if why := gpu_or_why():
        pytest.skip(why)
    path = tmp_path_factory.mktemp("proof") / "gpu-proof.json"
    subprocess.run([sys.executable, "-m", "tests.gpu", "--report", path], check=False)
    return by_check(path)


def by_check(path: Path) -> dict[tuple[str, str, str], dict[str, Any]]:
    return {(one["engine"], one["stage"], one["check"]): one for one in json.loads(path.read_text())["checks"]}


@pytest.mark.gpu
@pytest.mark.timeout(660)
@pytest.mark.parametrize(("engine", "stage", "check"), CHECKS)
def test_on_a_gpu(findings: dict[tuple[str, str, str], dict[str, Any]], engine: str, stage: str, check: str) -> None:
    finding = findings[engine, stage, check]
    if finding["outcome"] == "not possible":
        pytest.skip(finding["why"])
    assert finding["outcome"] == "passed", f"{finding['why']}\n{finding['log']}"


@pytest.mark.engine
@pytest.mark.parametrize(("engine", "file", "words"), LINES)
def test_the_lines_that_are_looked_for_are_those_of_the_installed_engines(engine: str, file: str, words: str) -> None:
    (path,) = machine.ENVIRONMENTS.glob(f"{engine}/lib/python3*/site-packages/{file}")
    assert words in path.read_text()


@pytest.mark.engine
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_ichat_takes_what_each_stage_configures(tmp_path: Path, stage: Stage, engine: str) -> None:
    site = Site(machine.ROOT / "entrypoint", "cuda", tmp_path, given="org/name", embedder=tmp_path)
    server = Server(engine, site, stage.model(engine, site))
    done = server.command("config")
    shutil.rmtree(server.home)
    assert done.returncode == 0, done.stderr


@pytest.mark.engine
@pytest.mark.parametrize("engine", ENGINES)
def test_the_engines_own_parser_takes_what_each_stage_asks_on_a_gpu(tmp_path: Path, engine: str) -> None:
    site = Site(machine.ROOT / "entrypoint", "cuda", tmp_path, given="org/name", embedder=tmp_path)
    models = [Model(name="demo", backend=engine, **stage.model(engine, site)) for stage in STAGES]  # type: ignore[arg-type]
    rows = [{"argv": ARGS[engine].to_argv(model, accelerator="cuda"), "wants": []} for model in models]
    script = machine.ROOT / "tests" / "engines" / "parse_argv.py"
    done = subprocess.run(
        [python_of(engine), script], input=json.dumps(rows), check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["parsed"] == [{}] * len(rows)


@pytest.mark.engine
@pytest.mark.timeout(180)
def test_the_first_stage_is_rehearsed_without_a_gpu(tmp_path: Path) -> None:
    """So that the proof itself is known to work before it meets its first GPU."""
    path = tmp_path / "gpu-proof.json"
    command = [sys.executable, "-m", "tests.gpu", "--accelerator", "cpu", "--engines", "vllm", "--stages", "default",
               "--budget-s", "170", "--report", path]  # fmt: skip
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    outcomes = {check: one["outcome"] for (_, _, check), one in by_check(path).items()}
    assert outcomes.pop("graphs") == "needs a GPU", done.stdout
    assert set(outcomes.values()) == {"passed"}, done.stdout
    assert done.returncode == 0, done.stderr
    assert path.with_suffix(".md").read_text().startswith("# GPU proof: finished: ")
