"""One GPU as the driver sees it, whoever uses it: asked through nvidia-smi, which comes with every driver."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

MIB = 2**20
#: What the driver itself may keep or give back while nobody computes.
TOLERANCE_BYTES = 256 * MIB
_FACTS = ("name", "driver_version", "compute_cap", "memory.total")
#: A driver that works answers in well under a second, one that has lost its device never.
_LIMIT_S = 20


class NoDeviceError(Exception):
    """The driver shows no GPU: the message says how it was asked."""


@dataclass(frozen=True)
class Sample:
    """``used_bytes`` is None where the driver does not tell (memory that CPU and GPU share)."""

    used_bytes: int | None
    pids: frozenset[int]

    def left_since(self, before: Sample) -> str:
        """What is there now and was not before, beyond what a driver keeps; empty: nothing."""
        words = []
        if self.used_bytes is not None and before.used_bytes is not None:
            more = self.used_bytes - before.used_bytes
            if more > TOLERANCE_BYTES:
                words.append(f"{more / MIB:.0f} MiB more memory are in use than before")
        if new := sorted(self.pids - before.pids):
            words.append(f"processes on the device: {', '.join(map(str, new))}")
        return "; ".join(words)


class Device:
    """The GPU with this number or id, in the order of the PCI bus."""

    def __init__(self, name: str, ask: Callable[..., str] | None = None) -> None:
        self.name = name
        self._ask = ask or ask_driver

    def facts(self) -> dict[str, str]:
        """Name, driver, CUDA that the driver can, compute capability, memory. NoDeviceError: there is no such GPU."""
        line = self._query("gpu", ",".join(_FACTS)).partition("\n")[0]
        facts = dict(zip(_FACTS, (cell.strip() for cell in line.split(",")), strict=True))
        cuda = re.search(r"CUDA[^:|\n]*Version\s*:\s*([\d.]+)", self._ask())
        return facts | {"cuda": cuda[1] if cuda else "unknown", "memory.total": f"{facts['memory.total']} MiB"}

    def sample(self) -> Sample:
        used = number_in(self._query("gpu", "memory.used"))
        return Sample(None if used is None else used * MIB, pids_in(self._query("compute-apps", "pid")))

    def settled(self, is_good: Callable[[Sample], bool], limit_s: float, step_s: float = 0.25) -> Sample:
        """The first sample that is good, else the last one: the driver frees memory a moment after a process ends."""
        end = time.monotonic() + limit_s
        while not is_good(found := self.sample()) and time.monotonic() < end:
            time.sleep(step_s)
        return found

    def _query(self, what: str, fields: str) -> str:
        return self._ask(f"--id={self.name}", f"--query-{what}={fields}", "--format=csv,noheader,nounits")


def ask_driver(*argv: str) -> str:
    """What nvidia-smi says. NoDeviceError, with its words, when it is missing or fails."""
    command = ["nvidia-smi", *argv]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_LIMIT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoDeviceError(f"nvidia-smi: {error}") from None
    if done.returncode:
        raise NoDeviceError(f"{' '.join(command)}: {(done.stdout + done.stderr).strip()}")
    return done.stdout


def number_in(text: str) -> int | None:
    """The first line as a number; None for `[N/A]`, `[Not Supported]` and the like."""
    found = re.match(r"\s*(\d+)\s*$", text.partition("\n")[0])
    return int(found[1]) if found else None


def pids_in(text: str) -> frozenset[int]:
    """The processes that are listed. In a container there may be none: the driver shows only those that it may."""
    return frozenset(int(line) for line in text.split() if line.isdigit())


def chosen(environ: Mapping[str, str]) -> str:
    """The device that ichat gives to a model that needs one: the first that is visible."""
    return environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip() or "0"


def given_up(before: int, awake: int, asleep: int) -> float:
    """The share of what an engine took of the device that it has given up; ValueError when it had taken nothing."""
    if awake <= before:
        raise ValueError(f"nothing was taken: {before} bytes were in use before the start, {awake} when it was ready")
    return (awake - asleep) / (awake - before)


def in_gib(count: int | None) -> float | None:
    return None if count is None else round(count / 2**30, 2)
