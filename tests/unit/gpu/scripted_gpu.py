"""A driver that answers as it was told to, in place of nvidia-smi."""

from __future__ import annotations


class ScriptedGpu:
    """Set ``used_mib`` and ``pids`` as the story goes; ``asked`` holds the arguments of every query."""

    def __init__(self, used_mib: int = 0, pids: tuple[int, ...] = ()) -> None:
        self.used_mib, self.pids = used_mib, pids
        self.asked: list[tuple[str, ...]] = []

    def __call__(self, *argv: str) -> str:
        if not argv:
            return "| NVIDIA-SMI 580.65.06    Driver Version: 580.65.06    CUDA Version: 13.0     |\n"
        self.asked.append(argv)
        return {
            "--query-gpu=name,driver_version,compute_cap,memory.total": "NVIDIA H200, 580.65.06, 9.0, 143771\n",
            "--query-gpu=memory.used": f"{self.used_mib}\n",
            "--query-compute-apps=pid": "".join(f"{pid}\n" for pid in self.pids),
        }[argv[1]]
