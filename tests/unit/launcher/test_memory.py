"""Whether another instance fits beside one that runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ichat.launcher.memory import Verdict, fits_gpus, fits_host, free_bytes, parse_gpus
from ichat.launcher.memory_limit import MemoryLimit

GIB = 2**30


def test_a_small_process_fits_and_the_figures_are_told() -> None:
    verdict = fits_host(os.getpid())
    assert verdict.fits
    assert "GiB of memory are free, another instance needs about 0." in verdict.why


def test_a_containers_limit_counts(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/\n")
    for name, text in {
        "memory.events": "oom_kill 0\n",
        "memory.max": f"{4 * GIB}\n",
        "memory.current": f"{GIB}\n",
    }.items():
        (tmp_path / name).write_text(text)
    assert MemoryLimit(tmp_path, own).free_bytes() == 3 * GIB
    (tmp_path / "memory.max").write_text("max\n")
    assert MemoryLimit(tmp_path, own).free_bytes() is None
    assert free_bytes() > 0


def test_the_drivers_lines_are_read_and_noise_is_not() -> None:
    found = parse_gpus(["0, GPU-a, 70000, 81559", "1, GPU-b, 100, 81559", "", "No devices were found"])
    assert found is not None
    assert [(gpu.index, gpu.uuid, gpu.free, gpu.total) for gpu in found] == [
        ("0", "GPU-a", 70000 << 20, 81559 << 20),
        ("1", "GPU-b", 100 << 20, 81559 << 20),
    ]
    assert parse_gpus(["NVIDIA-SMI has failed"]) is None


async def answer_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, gpus: tuple[str, ...]) -> Verdict:
    """With a driver's program that says this."""
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return fits_gpus(gpus, 0.5)


@pytest.mark.parametrize(
    ("gpus", "fits"), [(("0",), True), (("1",), False), (("0", "1"), False), ((), False), (("GPU-a",), True)]
)
async def test_the_tightest_gpu_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: tuple[str, ...], fits: bool
) -> None:
    text = "0, GPU-aaaa, 60000, 80000\n1, GPU-bbbb, 30000, 80000"
    verdict = await answer_of(tmp_path, monkeypatch, text, gpus)
    assert verdict.fits is fits
    assert "another instance takes 39.1 GiB" in verdict.why


async def test_without_a_driver_nothing_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    verdict = fits_gpus(("0",), None)
    assert verdict == Verdict(False, "nvidia-smi does not tell how much GPU memory is free")


async def test_a_gpu_that_the_driver_does_not_know_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = await answer_of(tmp_path, monkeypatch, "0, GPU-aaaa, 60000, 80000", ("7",))
    assert verdict == Verdict(False, "nvidia-smi does not know GPU 7")
