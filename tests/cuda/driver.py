"""A driver without a device, for machines that have none: enough to load what is linked against libcuda.so.1.

Some modules of the engines need `libcuda.so.1` to be loaded at all. Every function answers CUDA_ERROR_STUB_LIBRARY, but
for a few. The functions are those of the `cuda.h` that is installed: a package that needs a newer driver does not load.
"""

import subprocess
from pathlib import Path

from driver_stub import SONAME, STUB_LIBRARY, driver_functions

HERE = Path(__file__).parent
# Those whose answer is used before anybody looks for an error: torch ends the process, Triton reads through the pointer.
ANSWERED = {
    "cuDevicePrimaryCtxGetState": "(int device, unsigned *flags, int *active) { *flags = *active = 0; return 0; }",
    "cuGetErrorString": '(int error, const char **words) { *words = "no device"; return 0; }',
    "cuGetErrorName": '(int error, const char **words) { *words = "CUDA_ERROR_STUB_LIBRARY"; return 0; }',
}
#: Preloaded into a process that shall believe in a GPU: see `inside/runtime.c`.
RUNTIME = "libfake_runtime.so"


def build_driver(header: Path, into: Path) -> None:
    """Make both libraries in the directory, which then belongs on LD_LIBRARY_PATH. Needs gcc."""
    answers = dict.fromkeys(driver_functions(header.read_text()), f"(void) {{ return {STUB_LIBRARY}; }}") | ANSWERED
    source = "\n".join(f"int {name}{answer}" for name, answer in answers.items())
    into.mkdir(parents=True, exist_ok=True)
    shared = ["gcc", "-shared", "-fPIC"]
    driver = [*shared, f"-Wl,-soname,{SONAME}", "-x", "c", "-", "-o", str(into / SONAME)]
    subprocess.run(driver, input=source, text=True, check=True)
    subprocess.run([*shared, str(HERE / "inside" / "runtime.c"), "-o", str(into / RUNTIME)], check=True)
