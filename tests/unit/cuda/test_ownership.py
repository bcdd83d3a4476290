"""A package that overwrites a file of another is found from what both say that they installed."""

import base64
import hashlib
from pathlib import Path

from tests.cuda.ownership import HARMLESS, conflicts_in


def install(site_packages: Path, package: str, path: str, content: str) -> None:
    """As an installer does: the file is written over whatever is there."""
    file = site_packages / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    digest = base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest()).rstrip(b"=").decode()
    information = site_packages / f"{package}.dist-info"
    information.mkdir(exist_ok=True)
    with (information / "RECORD").open("a") as record:
        record.write(f"{path},sha256={digest},{len(content)}\n{information.name}/RECORD,,\n")


def test_cuda_python_12_beside_cuda_bindings_13_is_found(tmp_path: Path) -> None:
    """The fault that broke FlashInfer and CUTLASS: the wheel of 12.6 held the modules that are cuda-bindings' today."""
    runtime = "cuda/bindings/runtime.cpython-311-x86_64-linux-gnu.so"
    install(tmp_path, "cuda_bindings-13.5.0", runtime, "with cudaLibrary_t")
    install(tmp_path, "cuda_python-12.6.2.post1", runtime, "without it")
    (conflict,) = conflicts_in(tmp_path)
    assert conflict.path == runtime
    assert conflict.owners == ("cuda_bindings-13.5.0", "cuda_python-12.6.2.post1")


def test_the_same_file_in_two_packages_is_no_conflict(tmp_path: Path) -> None:
    install(tmp_path, "one-1", "space/__init__.py", "")
    install(tmp_path, "two-2", "space/__init__.py", "")
    assert conflicts_in(tmp_path) == []


def test_a_shared_file_that_somebody_changed_is_found(tmp_path: Path) -> None:
    install(tmp_path, "one-1", "space/__init__.py", "")
    install(tmp_path, "two-2", "space/__init__.py", "")
    (tmp_path / "space" / "__init__.py").write_text("changed")
    assert [conflict.why for conflict in conflicts_in(tmp_path)] == ["its content is another"]


def test_what_is_harmless_says_why() -> None:
    assert all(len(reason) > 20 for reason in HARMLESS.values())
