"""A model counts as whole in the hub's cache only when every file that an engine would load is there, and whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ichat.backends.hub_cache import cache_dir, is_whole, missing, snapshot
from ichat.config.schema import Model
from tests.hub import put_into_cache

DEMO = Path(__file__).parents[3] / "models" / "demo"


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A cache with the demo model as ichat/demo; its path is HF_HUB_CACHE."""
    put_into_cache(DEMO, tmp_path, "ichat/demo")
    return tmp_path


def model(**more: object) -> Model:
    return Model.model_validate({"name": "m", "backend": "vllm", "model_path": "ichat/demo"} | more)


def of(hub: Path) -> dict[str, str]:
    return {"HF_HUB_CACHE": str(hub)}


def files_of(hub: Path) -> Path:
    found = snapshot(hub, "ichat/demo", None)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"HF_HUB_CACHE": "/a", "HF_HOME": "/b"}, "/a"),
        ({"HUGGINGFACE_HUB_CACHE": "/a"}, "/a"),
        ({"HF_HOME": "/b", "XDG_CACHE_HOME": "/c"}, "/b/hub"),
        ({"XDG_CACHE_HOME": "/c", "HOME": "/h"}, "/c/huggingface/hub"),
        ({"HOME": "/h"}, "/h/.cache/huggingface/hub"),
    ],
)
def test_the_cache_is_where_the_hubs_library_has_it(environ: dict[str, str], expected: str) -> None:
    assert str(cache_dir(environ)) == expected


def test_a_model_that_was_downloaded_is_whole(hub: Path) -> None:
    assert is_whole(model(), of(hub))
    assert is_whole(model(revision="main"), of(hub))


def test_a_revision_is_a_branch_or_a_commit(hub: Path) -> None:
    commit = files_of(hub).name
    assert is_whole(model(revision=commit), of(hub))
    assert not is_whole(model(revision="v2"), of(hub))


def test_another_model_is_not_there(hub: Path) -> None:
    assert list(missing(model(model_path="org/other"), of(hub))) == [f"org/other: not in {hub}"]


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_download_that_was_interrupted_is_not_whole(hub: Path, name: str) -> None:
    (files_of(hub) / name).unlink()
    assert not is_whole(model(), of(hub))


def test_a_weight_file_that_was_cut_is_not_whole(hub: Path) -> None:
    blob = (files_of(hub) / "model.safetensors").resolve()
    blob.write_bytes(blob.read_bytes()[:-10])
    assert not is_whole(model(), of(hub))


def test_every_file_of_the_index_must_be_there(hub: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (files_of(hub) / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-2.safetensors: missing" in " ".join(missing(model(), of(hub)))


def test_tokenizer_and_adapters_of_the_hub_must_be_there_too(hub: Path) -> None:
    assert not is_whole(model(tokenizer_path="org/tokenizer"), of(hub))
    assert is_whole(model(tokenizer_path="ichat/demo"), of(hub))
    assert not is_whole(model(lora_paths=("a=org/lora",)), of(hub))


def test_with_a_directory_of_its_own_for_weights_it_is_left_to_the_engine(hub: Path) -> None:
    assert not is_whole(model(download_dir="/elsewhere"), of(hub))
    assert is_whole(model(download_dir=str(hub)), of(hub))


def test_a_directory_needs_no_hub() -> None:
    assert is_whole(model(model_path="/m"), {"HF_HUB_CACHE": "/none"})
