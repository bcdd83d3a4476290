"""Where the caches are, what is in them, and that torch.compile's outlives its worker."""

from __future__ import annotations

from pathlib import Path

from ichat.backends.caches import Size, below, caches, compile_cache, size_of

ROOT = Path(__file__).parents[3]


def test_the_variables_of_the_image_name_the_caches() -> None:
    found = caches(
        {"HOME": "/cache", "TRITON_CACHE_DIR": "/c/triton", "FLASHINFER_WORKSPACE_BASE": "/c/fi", "HF_HOME": "/c/hf"}
    )
    assert found["Triton"] == Path("/c/triton")
    assert found["FlashInfer"] == Path("/c/fi/.cache/flashinfer")
    assert found["hub"] == Path("/c/hf/hub")
    assert found["SGLang"] == Path("/cache/.cache/sglang")
    assert "FlashInfer's cubins" not in found, "in FlashInfer's own unless they are named"


def test_a_directory_that_two_share_counts_once() -> None:
    found = caches({"HOME": "/h", "DG_JIT_CACHE_DIR": "/c/dg", "SGLANG_DG_CACHE_DIR": "/c/dg"})
    assert list(found.values()).count(Path("/c/dg")) == 1


def test_every_cache_that_the_image_names_is_known() -> None:
    named = [
        word
        for word in (ROOT / "Dockerfile").read_text().replace("=", " ").split()
        if word.endswith(("_CACHE_DIR", "_CACHE_PATH", "_CACHE_ROOT", "_WORKSPACE_BASE"))
    ]
    assert named
    for name in named:
        assert (
            Path("/somewhere") in caches({"HOME": "/h", name: "/somewhere"}).values()
            or name == "FLASHINFER_WORKSPACE_BASE"
        )


def test_what_is_in_a_cache_is_counted(tmp_path: Path) -> None:
    assert size_of(tmp_path / "none") == Size(0, 0)
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "x").write_bytes(b"12345")
    (tmp_path / "a" / "b" / "y").write_bytes(b"123")
    before = size_of(tmp_path)
    assert before == Size(2, 8)
    (tmp_path / "z").write_bytes(b"1")
    assert size_of(tmp_path) - before == Size(1, 1)


def test_torch_compiles_into_the_users_cache(tmp_path: Path) -> None:
    assert compile_cache({"HOME": str(tmp_path)}) == str(tmp_path / ".cache" / "torchinductor")
    assert compile_cache({"HOME": "/h", "XDG_CACHE_HOME": str(tmp_path)}) == str(tmp_path / "torchinductor")
    assert compile_cache({}) is None


def test_where_nothing_can_be_written_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert compile_cache({"HOME": str(tmp_path / "file")}) is None


def test_into_a_directory_they_are_where_the_image_has_them() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    for name, path in below("/cache").items():
        assert f"{name}={path}" in dockerfile, name
    assert all(str(path).startswith("/cache/") for path in caches(below("/cache")).values())
