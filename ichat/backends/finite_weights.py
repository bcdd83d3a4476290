"""Whether weight files hold numbers: training that went wrong leaves NaN, which an engine serves without a word."""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterator
from pathlib import Path

#: Of a tensor so much is read whole; of a larger one as much in pieces from everywhere. What is wrong is seldom a
#: single number, and the first answer is looked at too.
_WHOLE_BYTES = 4 * 2**20
_PIECE_BYTES = 64 * 2**10
#: By type: its bytes, and the high bytes (without the sign) of numbers that may be infinite or NaN.
_KINDS: dict[str, tuple[int, frozenset[int]]] = {
    "F64": (8, frozenset({0x7F})),
    "F32": (4, frozenset({0x7F})),
    "BF16": (2, frozenset({0x7F})),
    "F16": (2, frozenset({0x7C, 0x7D, 0x7E, 0x7F})),
    "F8_E4M3": (1, frozenset({0x7F})),
    "F8_E5M2": (1, frozenset({0x7D, 0x7E, 0x7F})),
}


def tensor_with_nan(directory: Path) -> str | None:
    """The name of the first tensor in the safetensors files of a directory that holds NaN, as far as they were read.

    The files must be whole (``config.weights.check_weights``).
    """
    for path in sorted(directory.glob("*.safetensors")):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
            for name, tensor in header.items():
                if name == "__metadata__" or tensor["dtype"] not in _KINDS:
                    continue
                first, last = tensor["data_offsets"]
                for piece in _pieces(file.fileno(), 8 + length + first, last - first):
                    if has_nan(piece, tensor["dtype"]):
                        return str(name)
    return None


def _pieces(fd: int, start: int, length: int) -> Iterator[bytes]:
    if length <= _WHOLE_BYTES:
        yield os.pread(fd, length, start)
        return
    count = _WHOLE_BYTES // _PIECE_BYTES
    for number in range(count):
        at = (length - _PIECE_BYTES) * number // (count - 1) // 8 * 8  # begins with a number of any type
        yield os.pread(fd, min(_PIECE_BYTES + 8, length - at), start + at)


def has_nan(data: bytes, dtype: str) -> bool:
    """Whether one of the numbers, as safetensors writes them, is NaN."""
    size, suspicious = _KINDS[dtype]
    high = data[size - 1 :: size]
    both_signs = bytes(sorted(suspicious | {byte | 0x80 for byte in suspicious}))
    if not high.translate(None, bytes(set(range(256)) - set(both_signs))):
        return False  # as good as always, and as quick as reading
    if size == 1:
        return True
    numbers = (data[at * size : (at + 1) * size] for at, byte in enumerate(high) if byte in both_signs)
    return any(math.isnan(_to_float(number, dtype)) for number in numbers)


def _to_float(number: bytes, dtype: str) -> float:
    if dtype == "BF16":
        number, dtype = b"\0\0" + number, "F32"
    value: float = struct.unpack({"F64": "<d", "F32": "<f", "F16": "<e"}[dtype], number)[0]
    return value
