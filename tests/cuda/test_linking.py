"""What the engines compile at run time compiles, links and loads, with the driver where Debian has it or where GKE has it."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.cuda import environments
from tests.cuda.environments import ENGINES, SCRATCH, run_inside, site_packages, toolkit

pytestmark = pytest.mark.cuda

HERE = Path(__file__).parent
PLACES = ("/usr/lib/x86_64-linux-gnu", "/usr/local/nvidia/lib64")
# In a mount namespace of its own: the driver lies over what is there, and nothing of the machine is touched. In /usr/lib the
# loader's cache knows it, as NVIDIA's container toolkit sees to; in GKE's place only LD_LIBRARY_PATH, which the image sets.
MOUNT = """
set -e
case "$PLACE" in
/usr/lib/*) over=$PLACE; at=$LAYER/over ;;
*) over=/usr/local; at=$LAYER/over/nvidia/lib64 ;;
esac
mkdir -p "$at" "$LAYER/etc" "$LAYER/work"
cp "$DRIVER" "$at/"
mount -t overlay overlay -o "lowerdir=$LAYER/over:$over" "$over"
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$LAYER/etc,workdir=$LAYER/work" /etc
/sbin/ldconfig
[ -e "$PLACE/libcuda.so.1" ]
exec "$@"
"""


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("what", ["flashinfer", "triton"])
@pytest.mark.parametrize("engine", ENGINES)
def test_kernels_link_with_the_driver_in(engine: str, what: str, place: str, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PATH": f"{environments.ENVIRONMENTS / engine / 'bin'}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "PYTHONPATH": str(environments.ROOT),
        # As the image sets it, wherever the driver lies.
        "LD_LIBRARY_PATH": "/usr/local/nvidia/lib64",
        "CUDA_HOME": str(toolkit(engine)),
        "FLASHINFER_CUDA_ARCH_LIST": "9.0a",
        "FLASHINFER_WORKSPACE_BASE": str(SCRATCH / engine),
        "TRITON_CACHE_DIR": str(tmp_path / "triton"),
        "MAX_JOBS": "2",
        "PLACE": place,
        "LAYER": str(tmp_path / "layer"),
        "DRIVER": str(SCRATCH / "driver" / "libcuda.so.1"),
    }
    namespace = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]
    python = environments.ENVIRONMENTS / engine / "bin" / "python"
    command = [*namespace, "sh", "-c", MOUNT, "sh", str(python), "-m", "tests.cuda.inside.link", what]
    ran = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "loaded" in ran.stdout, (ran.stdout + ran.stderr)[-3000:]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_deep_gemm_kernel_compiles(engine: str, tmp_path: Path) -> None:
    """DeepGEMM links nothing: the driver loads what nvcc makes."""
    include = {"vllm": "vllm/third_party/deep_gemm/include", "sglang": "deep_gemm/include"}[engine]
    cubin = tmp_path / "kernel.cubin"
    command = [
        str(toolkit(engine) / "bin" / "nvcc"),
        *("-cubin", "-gencode=arch=compute_90a,code=sm_90a", "-std=c++20", "--expt-relaxed-constexpr"),
        *("--expt-extended-lambda", "-I", str(site_packages(engine) / include), "-o", str(cubin)),
        str(HERE / "inside" / "deep_gemm.cu"),
    ]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert b"sm90_fp8_gemm_1d2d_impl" in cubin.read_bytes()


def test_the_driver_stand_in_is_not_the_machines() -> None:
    assert (
        run_inside("vllm", "-c", "import ctypes; print(ctypes.CDLL('libcuda.so.1').cuInit(0))").output.strip() == "34"
    )
