"""Extras are asked for by name, locked upon an engine's own lock, and told to the one who starts the engine."""

from pathlib import Path

import pytest

from building import SetupError, Site, set_up
from extras import EXTRAS, wanted_extras
from locking import REQUIREMENTS, locked_in
from recipes import LOCKS, Recipe, extra_lock, recipes_for
from tests.unit.environments.test_building import FakeInstaller
from uv import complete_cuda

LOCKED = [(engine, extra) for engine in ("vllm", "sglang") for extra in EXTRAS if engine not in EXTRAS[extra].is_in]


@pytest.mark.parametrize("text", ["lmcache nixl", "nixl,lmcache", "  lmcache   nixl "])
def test_extras_are_separated_by_blanks_or_commas_in_any_order(text: str) -> None:
    assert wanted_extras(text, "cuda") == ("nixl", "lmcache")


def test_without_a_word_there_is_none_on_either_accelerator() -> None:
    assert wanted_extras("", "cpu") == wanted_extras(" ", "cuda") == ()


def test_an_unknown_extra_is_refused_with_all_that_there_are() -> None:
    with pytest.raises(
        ValueError, match=r'EXTRAS="nixel": there is no nixel. There are: nixl, mooncake, lmcache, deep-ep'
    ):
        wanted_extras("nixel", "cuda")


def test_extras_are_refused_where_there_is_no_gpu() -> None:
    with pytest.raises(ValueError, match=r"built for GPUs only\. Leave them out, or set ACCELERATOR=cuda"):
        wanted_extras("nixl", "cpu")


@pytest.mark.parametrize("extra", EXTRAS)
def test_every_extra_says_what_it_is_for_and_is_checked(extra: str) -> None:
    assert (REQUIREMENTS / "extras" / f"{extra}.in").read_text().startswith("# ")
    assert EXTRAS[extra].checks


@pytest.mark.parametrize(("engine", "extra"), LOCKED)
def test_an_extra_moves_nothing_of_its_engine(engine: str, extra: str) -> None:
    assert not locked_in(extra_lock(engine, extra)).keys() & locked_in(LOCKS / f"{engine}-cuda.txt").keys()


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_two_extras_never_want_two_versions_of_a_package(engine: str) -> None:
    lines: dict[str, list[str]] = {}
    for extra in (extra for of, extra in LOCKED if of == engine):
        for name, found in locked_in(extra_lock(engine, extra)).items():
            assert lines.setdefault(name, found) == found


def test_what_an_engine_brings_along_is_in_its_lock() -> None:
    assert "sgl-deep-ep" in locked_in(LOCKS / "sglang-cuda.txt")
    assert recipes_for("sglang", "cuda", extras=("deep-ep",))[0].locks == (LOCKS / "sglang-cuda.txt",)
    assert recipes_for("vllm", "cuda", extras=("deep-ep",))[0].locks[1:] == (extra_lock("vllm", "deep-ep"),)


def test_an_environment_with_other_extras_is_another_one() -> None:
    stamps = {
        recipes_for("sglang", "cuda", extras=extras)[0].stamp() for extras in ((), ("deep-ep",), ("nixl", "deep-ep"))
    }
    assert len(stamps) == 3


def test_the_environment_names_its_extras_after_each_was_checked(tmp_path: Path) -> None:
    lock = tmp_path / "a.txt"
    lock.write_text("one==1 \\\n    --hash=sha256:11\n")
    installer = FakeInstaller()
    recipe = Recipe("a", (lock,), needs_bytes=1, extras=("nixl", "lmcache"))
    set_up(Site(tmp_path / "envs"), {"a": (recipe,)}, installer, lambda line: None)
    assert (tmp_path / "envs" / "a" / "extras").read_text() == "nixl\nlmcache\n"
    checks = [f"check {statement}" for extra in recipe.extras for statement in EXTRAS[extra].checks]
    assert installer.steps == ["create .new-a", "install a.txt", *checks, "finish a"]


def test_without_extras_there_is_no_such_file(tmp_path: Path) -> None:
    lock = tmp_path / "a.txt"
    lock.write_text("one==1 \\\n    --hash=sha256:11\n")
    set_up(Site(tmp_path / "envs"), {"a": (Recipe("a", (lock,), 1),)}, FakeInstaller(), lambda line: None)
    assert not (tmp_path / "envs" / "a" / "extras").exists()


def test_an_extra_that_does_not_import_ends_the_build_with_its_name(tmp_path: Path) -> None:
    lock = tmp_path / "a.txt"
    lock.write_text("one==1 \\\n    --hash=sha256:11\n")
    installer = FakeInstaller(SetupError("ImportError: libibverbs.so.1 is missing."), fails_at="check")
    recipe = Recipe("a", (lock,), needs_bytes=1, extras=("mooncake",))
    with pytest.raises(SetupError, match=r"EXTRAS=mooncake: installed, but `from mooncake.*libibverbs.so.1 is missing"):
        set_up(Site(tmp_path / "envs"), {"a": (recipe,)}, installer, lambda line: None)
    assert not (tmp_path / "envs" / "a").exists()


def test_deep_gemm_finds_tritons_cuobjdump_beside_nvcc(tmp_path: Path) -> None:
    (tmp_path / "nvidia" / "cu13" / "lib").mkdir(parents=True)
    (tmp_path / "nvidia" / "cu13" / "bin").mkdir()
    tool = tmp_path / "triton" / "backends" / "nvidia" / "bin" / "cuobjdump"
    tool.parent.mkdir(parents=True)
    tool.touch()
    complete_cuda(tmp_path)
    complete_cuda(tmp_path)
    assert (tmp_path / "nvidia" / "cu13" / "bin" / "cuobjdump").samefile(tool)
