"""Compiles and links what FlashInfer and Triton compile at run time, and loads it. Which of them is the first argument."""

import pathlib
import sys


def flashinfer() -> None:
    from flashinfer.jit.page import gen_page_module

    spec = gen_page_module()
    # What is compiled stays; linked it is anew, with the driver where it is this time.
    pathlib.Path(spec.jit_library_path).unlink(missing_ok=True)
    spec.build(verbose=True)
    spec.load()


def triton() -> None:
    from triton.backends.nvidia import driver

    driver.CudaUtils()


if __name__ == "__main__":
    {"flashinfer": flashinfer, "triton": triton}[sys.argv[1]]()
    print("loaded")
