"""A package that a model's own code needs and nobody has is named before the engine starts, and not tried for again."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from ichat.backends.engines import refuse_missing_packages
from ichat.backends.failures import explain_start_failure
from ichat.backends.remote_code import missing_packages
from ichat.config.schema import Model
from ichat.errors import ConfigError, ExitCode

CODE = """
import json, einops_exts
from transformers import PretrainedConfig
from .helper import help
try:
    import tried
except ImportError:
    tried = None
if is_flash_attn_2_available():
    import asked_for
if TYPE_CHECKING is None:
    import conditional
def later():
    import inner.part
"""


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    packages = tmp_path / "vllm" / "lib" / "python3.12" / "site-packages"
    (packages / "transformers").mkdir(parents=True)
    (packages / "single.py").touch()
    (packages / "compiled.cpython-312-x86_64-linux-gnu.so").touch()
    (packages / "more.pth").write_text("# a comment\nimport os; os.getpid()\nelsewhere\n")
    (packages / "elsewhere" / "by_pth").mkdir(parents=True)
    return tmp_path / "vllm"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    directory.mkdir()
    auto_map = {"AutoConfig": "configuration_x.XConfig", "AutoModelForCausalLM": "modeling_x.XModel"}
    (directory / "config.json").write_text(json.dumps({"auto_map": auto_map}))
    (directory / "configuration_x.py").write_text(CODE)
    (directory / "helper.py").write_text("import of_the_helper, single, compiled, by_pth\n")
    (directory / "modeling_x.py").write_text("import of_the_model\n")
    (directory / "convert.py").write_text("import never_run\n")
    return directory


def model(directory: Path, **more: object) -> Model:
    return Model.model_validate({"name": "m", "model_path": str(directory), "trust_remote_code": True} | more)


def test_what_is_run_and_not_there_is_found(environment: Path, directory: Path) -> None:
    expected = ["conditional", "einops_exts", "inner", "of_the_helper"]
    assert missing_packages(model(directory), environment, {}) == expected


def test_the_code_of_a_tokenizer_counts_and_that_of_another_repository_does_not(
    environment: Path, directory: Path
) -> None:
    auto_map = {"AutoTokenizer": ["tokenization_x.X", None], "AutoProcessor": "org/repo--processing_x.X"}
    (directory / "config.json").write_text("{}")
    (directory / "tokenizer_config.json").write_text(json.dumps({"auto_map": auto_map}))
    (directory / "tokenization_x.py").write_text("import of_the_tokenizer\n")
    (directory / "processing_x.py").write_text("import of_another\n")
    assert missing_packages(model(directory), environment, {}) == ["of_the_tokenizer"]


def test_a_package_that_was_added_counts(environment: Path, directory: Path, tmp_path: Path) -> None:
    for name in ("einops_exts", "inner", "conditional"):
        (tmp_path / "added" / name).mkdir(parents=True)
    assert missing_packages(model(directory), environment, {"PYTHONPATH": str(tmp_path / "added")}) == ["of_the_helper"]
    (environment / "lib" / "python3.12" / "site-packages" / "of_the_helper").mkdir()
    env = {"PYTHONPATH": str(tmp_path / "added")}
    assert missing_packages(model(directory, env=env), environment, {}) == []


def test_code_that_is_not_trusted_or_not_here_is_not_looked_at(environment: Path, directory: Path) -> None:
    assert missing_packages(model(directory, trust_remote_code=False), environment, {}) == []
    assert missing_packages(model(directory, model_path="org/m"), environment, {}) == []
    (directory / "configuration_x.py").write_text("this is no Python\n")
    assert missing_packages(model(directory), environment, {}) == []


def test_it_is_refused_with_the_place_and_the_page_that_helps(environment: Path, directory: Path) -> None:
    place = {"models.m.model_path": "--model-path"}
    with pytest.raises(
        ConfigError, match=r"--model-path: .*imports conditional, einops_exts.*docs/from-ichat\.md"
    ) as found:
        refuse_missing_packages([model(directory)], environment.parent, place, {})
    assert found.value.exit_code is ExitCode.CONFIG


def test_what_transformers_finds_missing_is_not_tried_again() -> None:
    error = RuntimeError("Failed to load the model config.")
    error.__cause__ = ImportError(
        "This modeling file requires the following packages that were not found in your environment: einops_exts, "
        "flash_attn. Run `pip install einops_exts flash_attn`"
    )
    failure = explain_start_failure(error)
    assert (failure.exit_code, failure.code) == (ExitCode.CONFIG, "E-MODEL-PACKAGES")
    assert "imports einops_exts, flash_attn, which" in str(failure)


def test_what_pythons_import_finds_missing_in_the_models_code_is_the_same() -> None:
    code = ModuleType("transformers_modules.x.modeling_x")
    sys.modules[code.__name__] = code
    with pytest.raises(ModuleNotFoundError) as found:
        exec("import not_installed.part", code.__dict__)
    failure = explain_start_failure(found.value)
    assert (failure.exit_code, "imports not_installed, which" in str(failure)) == (ExitCode.CONFIG, True)


def test_what_the_engine_itself_lacks_is_the_engines_failure() -> None:
    with pytest.raises(ModuleNotFoundError) as found:
        exec("import not_installed", {"__name__": "vllm.model_executor"})
    assert explain_start_failure(found.value).exit_code is ExitCode.ENGINE
