"""The engines' environments as the image for GPUs has them, built beside those for the CPU, and programs run in them."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from building import is_complete
from recipes import ROOT, recipes_for
from tests.cuda.driver import RUNTIME, build_driver
from tests.cuda.inside.fake_gpu import CARDS

ENGINES = ("vllm", "sglang")
ENVIRONMENTS = ROOT / "build" / "cuda"
SCRATCH = ROOT / "build" / "cuda-check"
#: Programs that the checks call: the compilers of the image, and FFmpeg, which torchcodec loads.
NEEDED = {"gcc": "gcc libc6-dev", "g++": "g++", "ffmpeg": "ffmpeg"}
Card = tuple[int, int]


def build_environments() -> None:
    """Make what is not complete: 20 GB on the disk and some minutes the first time, nothing afterwards."""
    if missing := [packages for program, packages in NEEDED.items() if shutil.which(program) is None]:
        raise SystemExit(f"tests/cuda: needs programs that are not here. apt-get install {' '.join(missing)}")
    if not all(is_complete(ENVIRONMENTS / engine, recipes_for(engine, "cuda")) for engine in ENGINES):
        command = [str(ROOT / "scripts" / "setup"), "--into", str(ENVIRONMENTS), *ENGINES]
        subprocess.run(command, env=os.environ | {"ACCELERATOR": "cuda"}, check=True, stdout=sys.stderr)
    build_driver(toolkit("vllm") / "include" / "cuda.h", SCRATCH / "driver")


def site_packages(engine: str) -> Path:
    return next((ENVIRONMENTS / engine).glob("lib/python3*/site-packages"))


def toolkit(engine: str) -> Path:
    """The CUDA that came as Python packages."""
    return next(site_packages(engine).glob("nvidia/cu[0-9]*"))


@dataclass(frozen=True)
class Ran:
    code: int
    output: str
    words: str
    """What it said: standard error."""

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.output.splitlines()]


def run_inside(
    engine: str, *arguments: str, card: Card | None = None, asked: object = None, timeout_s: float = 600, **more: str
) -> Ran:
    """Run the environment's Python as a container of the image would: a home of its own, no network, no GPU.

    With a card the process takes itself for one that has it (`inside/fake_gpu.py` must be installed in it as well).
    """
    process = subprocess.run(
        [str(ENVIRONMENTS / engine / "bin" / "python"), *arguments],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        env=_environment(engine, card) | more,
        cwd=_home(engine),
        timeout=timeout_s,
        check=False,
    )
    return Ran(process.returncode, process.stdout, process.stderr)


def _home(engine: str) -> Path:
    home = SCRATCH / engine
    home.mkdir(parents=True, exist_ok=True)
    return home


def _environment(engine: str, card: Card | None) -> Mapping[str, str]:
    driver = SCRATCH / "driver"
    environment = {
        "PATH": f"{ENVIRONMENTS / engine / 'bin'}:{os.environ['PATH']}",
        "HOME": str(_home(engine)),
        "PYTHONPATH": str(ROOT),
        "LD_LIBRARY_PATH": str(driver),
        "CUDA_HOME": str(toolkit(engine)),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
    }
    if card is None:
        return environment
    _, _, processors, _, block_bytes = CARDS[card]
    return environment | {
        "LD_PRELOAD": str(driver / RUNTIME),
        "FAKE_GPU_MAJOR": str(card[0]),
        "FAKE_GPU_MINOR": str(card[1]),
        "FAKE_GPU_PROCESSORS": str(processors),
        "FAKE_GPU_SHARED_BYTES": str(block_bytes),
    }
