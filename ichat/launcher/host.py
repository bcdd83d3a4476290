"""What the machine or the container must offer before a model is started, asked before anything takes time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from ichat.backends.vllm_compat import QUEUE_BYTES as VLLM_QUEUE_BYTES
from ichat.config.schema import Model
from ichat.errors import ResourceError

_NVIDIA_DEVICES = (Path("/dev/nvidiactl"), Path("/dev/dxg"))
_SHM = Path("/dev/shm")  # noqa: S108  where POSIX shared memory lives


def sees_nvidia_device() -> bool:
    return any(device.exists() for device in _NVIDIA_DEVICES)


def check_machine(model: Model) -> None:
    """ResourceError where the engines' packages do not run at all. The scripted backend runs anywhere."""
    machine = os.uname().machine
    if model.backend != "fake" and machine != "x86_64":
        raise ResourceError(
            f"{model.name}: this machine is {machine}, and the engines' packages are for x86_64 only. Take an x86_64 "
            "machine; an image is built and run for it with --platform linux/amd64.",
            code="E-OS-MACHINE",
        )


def check_host(model: Model, accelerator: Literal["cpu", "cuda"]) -> None:
    """ResourceError, with the way out, where a start would fail for want of a GPU or of shared memory."""
    if accelerator == "cuda" and not sees_nvidia_device():
        raise ResourceError(
            f"{model.name}: runs on a GPU, and none is visible here. Start the container with `--gpus all` (needs the "
            "NVIDIA Container Toolkit; in Kubernetes: nvidia.com/gpu), or build the image for the CPU: "
            "make image ACCELERATOR=cpu.",
            code="E-GPU-MISSING",
        )
    if model.backend == "vllm" and _ranks(model) > 1 and (free_bytes := free_shared_memory()) < VLLM_QUEUE_BYTES:
        raise ResourceError(
            f"{model.name}: its {_ranks(model)} processes exchange data in shared memory: /dev/shm has "
            f"{free_bytes >> 20} MiB free, vLLM needs {(VLLM_QUEUE_BYTES >> 20) + 1} at least. Start the container "
            "with --shm-size 8g (or --ipc host; in Kubernetes an emptyDir with medium Memory at /dev/shm).",
            code="E-OS-SHM",
        )


def must_do_without_workers(model: Model, accelerator: Literal["cpu", "cuda"]) -> bool:
    """On a CPU vLLM runs even a single rank in a worker process behind queues in shared memory, to bind its threads
    to a NUMA node. Where the queues do not fit (Docker's default of 64 MiB), EngineCore has to do the work itself.
    """
    if model.backend != "vllm" or accelerator != "cpu" or _ranks(model) > 1:
        return False
    return free_shared_memory() < VLLM_QUEUE_BYTES


def notices(model: Model, accelerator: Literal["cpu", "cuda"]) -> tuple[str, ...]:
    """What a person should know although nothing is wrong."""
    if not must_do_without_workers(model, accelerator):
        return ()
    return (
        f"{model.name}: /dev/shm has {free_shared_memory() >> 20} MiB free, too little for a worker process of vLLM; "
        "EngineCore does its work (with --shm-size 1g: a worker bound to a NUMA node)",
    )


def free_shared_memory() -> int:
    """In bytes."""
    found = os.statvfs(_SHM)
    return found.f_bavail * found.f_frsize


def _ranks(model: Model) -> int:
    return (model.tensor_parallel_size or 1) * (model.pipeline_parallel_size or 1)
