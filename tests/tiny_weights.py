"""Variants of the demo model's weights, and an adapter for it, written without any engine or torch."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from tests.worker_process import DEMO

RANK = 4


def blank_weights(directory: Path) -> Path:
    """The demo model with what its layers learned wiped out: it fits, and says other things."""
    return _filled_weights(directory, 0.0)


def nan_weights(directory: Path) -> Path:
    """The same with NaN there, as a training run leaves them that went wrong."""
    return _filled_weights(directory, float("nan"))


def overflowing_weights(directory: Path) -> Path:
    """The same with numbers there that are finite, and whose products are not."""
    return _filled_weights(directory, 3e38)


def _filled_weights(directory: Path, number: float) -> Path:
    directory.mkdir()
    for file in DEMO.iterdir():
        if file.suffix in (".json", ".jinja"):
            (directory / file.name).symlink_to(file)
    content = bytearray((DEMO / "model.safetensors").read_bytes())
    length = struct.unpack("<Q", content[:8])[0]
    for name, tensor in json.loads(content[8 : 8 + length]).items():
        if "_proj.weight" in name:
            first, last = (8 + length + offset for offset in tensor["data_offsets"])
            encoded = struct.pack("<f", number)[-2 if tensor["dtype"] == "BF16" else -4 :]
            content[first:last] = encoded * ((last - first) // len(encoded))
    (directory / "model.safetensors").write_bytes(content)
    return directory


def adapter(directory: Path, strength: float = 1.0) -> Path:
    """A LoRA adapter that turns the output of every MLP into something else."""
    directory.mkdir()
    config = json.loads((DEMO / "config.json").read_text())
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    tensors: dict[str, tuple[tuple[int, int], bytes]] = {}
    for layer in range(config["num_hidden_layers"]):
        base = f"base_model.model.model.layers.{layer}.mlp.down_proj"
        tensors[f"{base}.lora_A.weight"] = ((RANK, inner), _waves(RANK * inner, strength))
        tensors[f"{base}.lora_B.weight"] = ((hidden, RANK), _waves(hidden * RANK, strength))
    _write(directory / "adapter_model.safetensors", tensors)
    (directory / "adapter_config.json").write_text(
        json.dumps(
            {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 8 * RANK, "bias": "none",
             "target_modules": ["down_proj"], "base_model_name_or_path": "demo", "inference_mode": True,
             "lora_dropout": 0.0, "fan_in_fan_out": False, "modules_to_save": None}
        )
    )  # fmt: skip
    return directory


def _waves(count: int, strength: float) -> bytes:
    return struct.pack(f"<{count}f", *(strength * ((n * 7919) % 17 - 8) / 8 for n in range(count)))


def _write(path: Path, tensors: dict[str, tuple[tuple[int, int], bytes]]) -> None:
    header: dict[str, Any] = {}
    at = 0
    for name, (shape, data) in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + b"".join(data for _, data in tensors.values()))
