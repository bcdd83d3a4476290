"""The build step that makes the environments of the image smaller: what it removes, and what it makes one file of."""

import importlib.util
import os
import py_compile
from pathlib import Path

import pytest

import slim

PACKAGES = "lib/python3.12/site-packages"


@pytest.fixture
def environments(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "vllm", tmp_path / "sglang"


def write(path: Path, text: str, mode: int = 0o644) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def test_equal_files_become_one_also_within_an_environment(environments: tuple[Path, Path]) -> None:
    vllm, sglang = environments
    names = [vllm / PACKAGES / "a.so", vllm / PACKAGES / "a.so.1", sglang / PACKAGES / "b.so"]
    for name in names:
        write(name, "same")
    other = write(sglang / PACKAGES / "c.so", "else")
    slim.main(*environments)
    assert len({name.stat().st_ino for name in names}) == 1
    assert other.read_text() == "else"
    assert all(name.read_text() == "same" for name in names)


def test_a_program_stays_one_and_an_empty_file_stays_alone(environments: tuple[Path, Path]) -> None:
    program = write(environments[0] / "bin" / "a", "same", 0o755)
    text = write(environments[1] / "bin" / "a", "same")
    empty = [write(environment / "py.typed", "") for environment in environments]
    slim.main(*environments)
    assert os.access(program, os.X_OK)
    assert text.stat().st_mode & 0o111 == 0
    assert not empty[0].samefile(empty[1])


def test_bytecode_follows_its_source_and_stays_valid(environments: tuple[Path, Path]) -> None:
    sources = [write(environment / PACKAGES / "a.py", "x = 1\n") for environment in environments]
    os.utime(sources[1], (1, 1))
    for source in sources:
        py_compile.compile(str(source), doraise=True)
    slim.main(*environments)
    compiled = [Path(importlib.util.cache_from_source(source)) for source in sources]
    assert sources[0].samefile(sources[1])
    assert compiled[0].samefile(compiled[1])
    # Python takes it for its source's only if it tells the time of the source.
    told = int.from_bytes(compiled[1].read_bytes()[8:12], "little")
    assert told == int(sources[1].stat().st_mtime)


def test_what_is_never_loaded_is_gone_and_its_neighbours_are_not(environments: tuple[Path, Path]) -> None:
    packages = environments[0] / PACKAGES
    gone = [
        write(packages / "nvidia/cu13/lib/libcusolverMg.so.12", "a"),
        write(packages / "nvidia/cu13/lib/libnvrtc.alt.so.13", "b"),
        write(packages / "scipy/stats/tests/test_a.py", "c"),
        write(environments[0] / "lib/libiomp5.a", "d"),
    ]
    kept = [
        write(packages / "nvidia/cu13/lib/libnvrtc.so.13", "e"),
        write(packages / "nvidia/cu13/lib/libcudart_static.a", "f"),
        write(packages / "scipy/stats/_stats.py", "g"),
        write(packages / "sympy/testing/__init__.py", "h"),
    ]
    slim.main(*environments)
    assert [path for path in gone if path.exists()] == []
    assert all(path.exists() for path in kept)


@pytest.mark.parametrize("is_for_gpus", [True, False])
def test_the_assembler_of_gpu_code_is_kept_for_gpus_only(environments: tuple[Path, Path], is_for_gpus: bool) -> None:
    packages = environments[0] / PACKAGES
    assembler = write(packages / "triton/backends/nvidia/bin/ptxas", "a", 0o755)
    code = write(packages / "triton/backends/nvidia/lib/libdevice.10.bc", "b")
    if is_for_gpus:
        write(packages / "nvidia/cu13/lib/libcudart.so.13", "c")
    slim.main(*environments)
    assert assembler.exists() == is_for_gpus
    assert code.exists()


def test_every_pattern_has_its_reason() -> None:
    assert all(
        len(reason.split()) > 2 for reason in (slim.NEVER_LOADED | slim.ONLY_FOR_GPUS | slim.NEVER_LINKED).values()
    )


def test_the_file_that_stays_is_one_with_bytecode(environments: tuple[Path, Path]) -> None:
    stub, source = (write(environment / PACKAGES / "a.py", "x = 1\n") for environment in environments)
    os.utime(source, (1, 1))
    py_compile.compile(str(source), doraise=True)
    slim.main(*environments)
    compiled = Path(importlib.util.cache_from_source(source))
    assert stub.samefile(source)
    assert int.from_bytes(compiled.read_bytes()[8:12], "little") == int(source.stat().st_mtime) == 1
    assert not Path(importlib.util.cache_from_source(stub)).exists()
