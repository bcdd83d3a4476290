"""A library in place of the driver's `libcuda.so.1`, which only a machine with a GPU has, to link against or to import.

NVIDIA's toolkit ships such a stub; the toolkit as Python packages does not. A linker reads from it which functions
there are, and the name under which the real library is to be loaded. Where that lies is then the loader's matter alone:
in /usr/lib/x86_64-linux-gnu, or in /usr/local/nvidia/lib64 as on GKE. And what is linked to the driver can be imported
on a machine that has none.
"""

import platform
import re
import struct
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

SONAME = "libcuda.so.1"
#: What every function answers if the stub itself is loaded: CUDA_ERROR_STUB_LIBRARY.
STUB_LIBRARY = 34
#: What every function answers where a library is imported without a GPU: CUDA_ERROR_NO_DEVICE.
NO_DEVICE = 100
# Machine → its number in ELF.
_MACHINES = {"x86_64": 62, "aarch64": 183}
_PAGE_BYTES = 0x10000  # the largest of both machines
_HEADER_BYTES, _SEGMENT_BYTES, _SECTION_BYTES, _SYMBOL_BYTES = 64, 56, 64, 24
_GLOBAL_FUNCTION = 0x12
_READ, _WRITE, _EXECUTE = 4, 2, 1


def driver_functions(header: str) -> list[str]:
    """The names in the text of `cuda.h`: of functions and of the macros that rename them. One too many does no harm."""
    names = set(re.findall(r"\bcu[A-Z]\w*", header))
    names |= {f"{name}_{kind.lower()}" for kind, name in re.findall(r"__CUDA_API_(PTDS|PTSZ)\((cu\w+)\)", header)}
    return sorted(names)


class _Section(NamedTuple):
    name: str
    kind: int
    flags: int
    at: int
    content: bytes
    link: int = 0
    info: int = 0
    entry_bytes: int = 0


@contextmanager
def stand_in_driver(header: Path) -> Iterator[Path]:
    """A directory for LD_LIBRARY_PATH with a driver that has no device, made from the machine's `cuda.h`.

    It is gone afterwards: a real driver must never find it before itself.
    """
    with tempfile.TemporaryDirectory(prefix="ichat-driver-") as name:
        functions = driver_functions(header.read_text())
        (Path(name) / SONAME).write_bytes(stub_library(functions, platform.machine(), NO_DEVICE))
        yield Path(name)


def stub_library(functions: Sequence[str], machine: str, answer: int = STUB_LIBRARY) -> bytes:
    """An ELF shared library whose functions all give one answer. Raises KeyError for a machine it cannot do."""
    number, code = _MACHINES[machine], _return_code(machine, answer)
    names, offsets = _string_table((SONAME, *functions))
    buckets = _hash_table(functions)
    # In the file, and in memory: headers, symbols, their names, their hashes, what the loader reads; then the code.
    symbols_at = _HEADER_BYTES + 3 * _SEGMENT_BYTES
    names_at = symbols_at + _SYMBOL_BYTES * (1 + len(functions))
    buckets_at = _aligned(names_at + len(names), 8)
    dynamic_at = _aligned(buckets_at + len(buckets), 8)
    tags = ((14, offsets[SONAME]), (4, buckets_at), (5, names_at), (6, symbols_at), (10, len(names)), (11, 24), (0, 0))
    dynamic = b"".join(struct.pack("<QQ", *tag) for tag in tags)
    code_at = _aligned(dynamic_at + len(dynamic), _PAGE_BYTES)
    entry = struct.Struct("<IBBHQQ")
    symbols = bytes(_SYMBOL_BYTES) + b"".join(
        entry.pack(offsets[name], _GLOBAL_FUNCTION, 0, 5, code_at, len(code)) for name in functions
    )
    sections = [
        _Section(".dynsym", 11, 2, symbols_at, symbols, link=2, info=1, entry_bytes=_SYMBOL_BYTES),
        _Section(".dynstr", 3, 2, names_at, names),
        _Section(".hash", 5, 2, buckets_at, buckets, link=1, entry_bytes=4),
        _Section(".dynamic", 6, 3, dynamic_at, dynamic, link=2, entry_bytes=16),
        _Section(".text", 1, 6, code_at, code),
    ]
    segments = [
        (1, _READ | _WRITE, 0, dynamic_at + len(dynamic), _PAGE_BYTES),
        (1, _READ | _EXECUTE, code_at, len(code), _PAGE_BYTES),
        (2, _READ | _WRITE, dynamic_at, len(dynamic), 8),
    ]
    return _write(number, segments, sections)


def _return_code(machine: str, answer: int) -> bytes:
    """Machine code of `return answer;`."""
    if machine == "x86_64":
        return b"\xb8" + struct.pack("<I", answer) + b"\xc3"
    return struct.pack("<II", 0x52800000 | answer << 5, 0xD65F03C0)


def _write(machine: int, segments: Sequence[tuple[int, ...]], sections: list[_Section]) -> bytes:
    last = sections[-1]
    section_names, offsets = _string_table([*(section.name for section in sections), ".shstrtab"])
    sections = [*sections, _Section(".shstrtab", 3, 0, last.at + len(last.content), section_names)]
    table_at = _aligned(sections[-1].at + len(section_names), 8)
    image = bytearray(table_at)
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")  # 64 bits, little endian
    shape = (_HEADER_BYTES, _SEGMENT_BYTES, len(segments), _SECTION_BYTES, len(sections) + 1, len(sections))
    header = struct.pack("<16sHHIQQQIHHHHHH", ident, 3, machine, 1, 0, _HEADER_BYTES, table_at, 0, *shape)
    for kind, flags, at, size, align in segments:
        header += struct.pack("<IIQQQQQQ", kind, flags, at, at, at, size, size, align)
    image[: len(header)] = header
    table = bytes(_SECTION_BYTES)
    for section in sections:
        size = len(section.content)
        image[section.at : section.at + size] = section.content
        address = section.at if section.flags else 0
        where = (offsets[section.name], section.kind, section.flags, address, section.at, size)
        table += struct.pack("<IIQQQQIIQQ", *where, section.link, section.info, 8, section.entry_bytes)
    return bytes(image) + table


def _string_table(strings: Iterable[str]) -> tuple[bytes, dict[str, int]]:
    table, offsets = bytearray(1), {}
    for string in strings:
        offsets[string] = len(table)
        table += string.encode() + b"\0"
    return bytes(table), offsets


def _hash_table(functions: Sequence[str]) -> bytes:
    """The table by which the loader finds a symbol. Symbol 0 is the null symbol and the end of every chain."""
    size = max(1, len(functions))
    buckets, chains = [0] * size, [0] * (1 + len(functions))
    for number, name in enumerate(functions, start=1):
        bucket = _elf_hash(name) % size
        chains[number], buckets[bucket] = buckets[bucket], number
    return struct.pack(f"<{2 + size + len(chains)}I", size, len(chains), *buckets, *chains)


def _elf_hash(name: str) -> int:
    value = 0
    for byte in name.encode():
        value = (value << 4) + byte
        value = (value ^ (value >> 24 & 0xF0)) & 0x0FFFFFFF
    return value


def _aligned(at: int, to: int) -> int:
    return -(-at // to) * to
