"""What is compiled at run time links against a stub of the driver, and loads the driver wherever it lies."""

import ctypes
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from driver_stub import NO_DEVICE, SONAME, STUB_LIBRARY, driver_functions, stand_in_driver, stub_library

HEADER = """
#define cuMemAlloc cuMemAlloc_v2
#define cuLaunchKernel __CUDA_API_PTSZ(cuLaunchKernel)
CUresult CUDAAPI cuInit(unsigned int Flags);
CUresult CUDAAPI cuMemAlloc(CUdeviceptr *dptr, size_t bytesize);
CUresult CUDAAPI cuLaunchKernel(CUfunction f);
typedef int cudaNot;
"""


def test_functions_are_taken_from_the_header_with_the_names_that_macros_make() -> None:
    assert driver_functions(HEADER) == [
        "cuInit",
        "cuLaunchKernel",
        "cuLaunchKernel_ptsz",
        "cuMemAlloc",
        "cuMemAlloc_v2",
    ]


def test_every_function_of_the_stub_says_that_it_is_one(tmp_path: Path) -> None:
    names = [f"cuFunction{number}" for number in range(700)]
    (tmp_path / SONAME).write_bytes(stub_library(names, platform.machine()))
    library = ctypes.CDLL(str(tmp_path / SONAME))
    assert {getattr(library, name)() for name in names} == {STUB_LIBRARY}
    assert not hasattr(library, "cuFunction700")


def test_a_stand_in_for_the_driver_has_no_device_and_is_gone_after_the_check(tmp_path: Path) -> None:
    (tmp_path / "cuda.h").write_text(HEADER)
    with stand_in_driver(tmp_path / "cuda.h") as folder:
        driver = ctypes.CDLL(str(folder / SONAME))
        assert {driver.cuInit(0), driver.cuMemAlloc_v2(), driver.cuMemAlloc()} == {NO_DEVICE}
    assert not folder.exists()


@pytest.mark.parametrize(("machine", "number"), [("x86_64", 62), ("aarch64", 183)])
def test_the_stub_is_a_shared_library_of_the_machine(machine: str, number: int) -> None:
    stub = stub_library(["cuInit"], machine)
    assert stub[:4] == b"\x7fELF"
    assert int.from_bytes(stub[16:18], "little") == 3
    assert int.from_bytes(stub[18:20], "little") == number


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no compiler: tests/cuda links real kernels in the CI")
@pytest.mark.parametrize("kind", ["--as-needed", "--no-as-needed"])
def test_what_is_linked_against_the_stub_loads_the_driver_from_either_place(tmp_path: Path, kind: str) -> None:
    stubs, places = tmp_path / "stubs", [tmp_path / "usr" / "lib", tmp_path / "nvidia" / "lib64"]
    for folder in (stubs, *places):
        folder.mkdir(parents=True)
    (stubs / "libcuda.so").write_bytes(stub_library(["cuInit"], platform.machine()))
    source, program = tmp_path / "main.c", tmp_path / "main"
    source.write_text("int cuInit(int); int main(void) { return cuInit(0); }")
    subprocess.run(["gcc", source, "-o", program, f"-L{stubs}", f"-Wl,{kind}", "-lcuda"], check=True)
    for answer, place in enumerate(places, start=1):
        driver = f"int cuInit(int flags) {{ return {answer}; }}"
        command = ["gcc", "-shared", "-x", "c", "-", "-o", str(place / SONAME)]
        subprocess.run(command, input=driver, text=True, check=True)
        found = subprocess.run([program], env={"LD_LIBRARY_PATH": str(place)}, check=False)
        assert found.returncode == answer
