"""Whether weight files are whole: the header, the size and the index of each safetensors file, not its content."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

HEADER_LIMIT_BYTES = 100_000_000  # the format's own limit
INDEX = "model.safetensors.index.json"
_LFS = b"version https://git-lfs.github.com/spec/"


class WeightsError(Exception):
    """A weight file that cannot be loaded; the text names it, with expected and actual bytes."""


def is_lfs_pointer(start: bytes) -> bool:
    """Whether a file is what git leaves in place of a large file that was not fetched."""
    return start.startswith(_LFS)


def read_table(content: bytes) -> dict[str, Any]:
    """What a JSON file of a model holds; ValueError says why it is no table of names and values."""
    try:
        table = json.loads(content)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(table, dict):
        raise ValueError("not a table of names and values")  # noqa: TRY004  the content is wrong, not an argument
    return table


def check_weights(path: Path, *, is_needed: bool) -> None:
    """Check every safetensors file that an engine would load from a directory; all that is wrong in one error."""
    index = _read_index(path / INDEX)
    names = sorted(set(index.values())) if index else sorted(p.name for p in path.glob("*.safetensors"))
    if not names and is_needed:
        _check_pickles(path)
    wrong = []
    for name in names:
        try:
            expected = {tensor for tensor, shard in index.items() if shard == name}
            _check_file(path / name, expected)
        except WeightsError as error:
            wrong.append(str(error))
    if wrong:
        more = f" ({len(wrong) - 3} more files are wrong)" if len(wrong) > 3 else ""
        raise WeightsError(" ".join(wrong[:3]) + more)


def shapes_of(path: Path) -> dict[str, list[int]]:
    """The shape of each tensor in a directory's safetensors files, which ``check_weights`` has found whole."""
    shapes: dict[str, list[int]] = {}
    for file in sorted(path.glob("*.safetensors")):
        with file.open("rb") as opened:
            header = _read_header(file, opened.read(int.from_bytes(opened.read(8), "little")))
        shapes |= {name: tensor["shape"] for name, tensor in header.items() if name != "__metadata__"}
    return shapes


def _read_index(path: Path) -> dict[str, str]:
    """Tensor to file."""
    if not path.exists():
        return {}
    content = path.read_bytes()
    if is_lfs_pointer(content):
        raise WeightsError(f"{path}: is a git-LFS pointer, not the file. Run `git lfs pull` there.")
    try:
        index: dict[str, str] = read_table(content)["weight_map"]
        if not all(isinstance(name, str) and name == os.path.basename(name) for name in index.values()):  # noqa: PTH119
            raise WeightsError(f"{path}: names files outside of its directory.")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path}: is not an index of weights ({error!r}). Fetch it again.") from None
    if not index:
        raise WeightsError(f"{path}: names no weights. Fetch it again.")
    return index


def _check_file(path: Path, expected: set[str]) -> None:
    if not path.exists():
        raise WeightsError(f"{path}: missing, but {INDEX} names it. Fetch it.")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(128)
        if is_lfs_pointer(start):
            raise WeightsError(f"{path}: is a git-LFS pointer of {size} bytes, not the file. Run `git lfs pull` there.")
        if size < 8:
            raise WeightsError(f"{path}: has {size} bytes; a safetensors file has at least 8. Fetch it again.")
        length = int.from_bytes(start[:8], "little")
        if length > min(size - 8, HEADER_LIMIT_BYTES):
            raise WeightsError(
                f"{path}: its header should have {length} bytes, but the file has {size}. Fetch it again."
            )
        file.seek(8)
        header = _read_header(path, file.read(length))
    whole = 8 + length + _data_bytes(path, header)
    if whole != size:
        raise WeightsError(f"{path}: expected {whole} bytes, has {size}. Fetch it again.")
    if lost := expected - header.keys():
        raise WeightsError(f"{path}: lacks {len(lost)} tensors that {INDEX} looks for in it, {min(lost)} first.")


def _read_header(path: Path, content: bytes) -> dict[str, Any]:
    try:
        return read_table(content)
    except json.JSONDecodeError:
        raise WeightsError(f"{path}: its header is not JSON. Fetch it again.") from None
    except ValueError as error:
        raise WeightsError(f"{path}: its header is not a table of tensors ({error}). Fetch it again.") from None


def _data_bytes(path: Path, header: dict[str, Any]) -> int:
    end = 0
    for name, tensor in header.items():
        match tensor:
            case _ if name == "__metadata__":
                pass
            case {"data_offsets": [int(first), int(last)]} if 0 <= first <= last:
                end = max(end, last)
            case _:
                raise WeightsError(f"{path}: a tensor in its header, {name}, has no offsets. Fetch it again.")
    return end


def _check_pickles(path: Path) -> None:
    """Of the other formats only this can be seen from outside: a pointer or an empty file."""
    files = [p for pattern in ("*.bin", "*.pt", "*.pth", "*.gguf") for p in path.glob(pattern)]
    if not files:
        raise WeightsError(f"{path}: has an index of weights, but no weights. Fetch them.")
    for file in files:
        with file.open("rb") as opened:
            if is_lfs_pointer(opened.read(128)):
                raise WeightsError(f"{file}: is a git-LFS pointer, not the file. Run `git lfs pull` there.")
        if file.stat().st_size == 0:
            raise WeightsError(f"{file}: has 0 bytes. Fetch it again.")
