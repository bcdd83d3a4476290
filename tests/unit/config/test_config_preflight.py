"""S10 and S11: a model that cannot be loaded is refused from its files alone, in a second."""

import json
import shutil
import struct
import time
from pathlib import Path

import pytest

from ichat.config.preflight import Check, preflight
from ichat.config.schema import Model
from ichat.errors import ConfigError, ExitCode

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123456789abcdef\nsize 123456\n"


def shard(path: Path, tensors: dict[str, int]) -> None:
    header, at = {}, 0
    for name, size in tensors.items():
        header[name] = {"dtype": "U8", "shape": [size], "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(at))


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"architectures": ["Qwen2ForCausalLM"]}))
    (path / "tokenizer.json").write_text('{"model": {}}')
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    shard(path / "model-1.safetensors", {"a": 1000})
    shard(path / "model-2.safetensors", {"b": 500, "c": 7})
    weight_map = {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-2.safetensors"}
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return path


def look(path: Path | str, **settings: object) -> Check:
    check = Check(Model(name="m", model_path=str(path), **settings), "--model-path")  # type: ignore[arg-type]
    check.run()
    return check


def test_a_whole_model_passes(model_dir):
    check = look(model_dir)
    assert (check.problems, check.notices) == ([], [])


def test_a_repository_of_the_hub_is_left_to_the_engine():
    assert look("org/name").problems == []


def test_a_missing_model_says_all_that_is_missing(model_dir, tmp_path):
    (tmp_path / "empty").mkdir()
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "readme").write_text("x")
    cases = {
        tmp_path / "nowhere": "no such directory",
        tmp_path / "empty": "the directory is empty",
        bare: "no config.json, no tokenizer (tokenizer.json, tokenizer.model …), no weights (*.safetensors)",
        model_dir / "config.json": "is a file; a model is a directory",
    }
    for path, expected in cases.items():
        began = time.perf_counter()
        (problem,) = look(path).problems
        assert time.perf_counter() - began < 1
        assert expected in problem.message
        assert str(path) in problem.message
        assert (problem.place, problem.exit_code) == ("--model-path:", ExitCode.NO_INPUT)


def test_what_is_given_elsewhere_is_not_missing(model_dir):
    (model_dir / "tokenizer.json").unlink()
    assert "no tokenizer" in look(model_dir).problems[0].message
    assert look(model_dir, tokenizer_path="org/t").problems == []
    shutil.copy(model_dir / "config.json", model_dir / "tokenizer.json")
    for file in model_dir.glob("model*"):
        file.unlink()
    assert "no weights" in look(model_dir).problems[0].message
    assert look(model_dir, load_format="dummy").problems == []


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def extend(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def with_header(path: Path, header: bytes) -> None:
    path.write_bytes(struct.pack("<Q", len(header)) + header)


def huge_header(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 2**60) + path.read_bytes()[8:])


def zero_page(path: Path) -> None:
    path.write_bytes(bytes(4096) + path.read_bytes()[4096:])


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (truncate, "expected {size} bytes, has {less}"),
        (extend, "expected {size} bytes, has {more}"),
        (huge_header, "its header should have 1152921504606846976 bytes, but the file has {size}"),
        (zero_page, "its header is not JSON"),
        (lambda path: path.write_bytes(POINTER), f"is a git-LFS pointer of {len(POINTER)} bytes"),
        (lambda path: path.unlink(), "missing, but model.safetensors.index.json names it"),
        (lambda path: path.write_bytes(b""), "has 0 bytes; a safetensors file has at least 8"),
        (
            lambda path: shard(path, {"b": 507}),
            "lacks 1 tensors that model.safetensors.index.json looks for in it, c first",
        ),
        (lambda path: shard(path, {}), "lacks 2 tensors"),
        (lambda path: path.write_bytes(struct.pack("<Q", 2) + b"[]"), "is not a table of tensors"),
        (lambda path: with_header(path, b'{"b": 1}'), "has no offsets"),
        (lambda path: with_header(path, b'{"b": {"data_offsets": [0, Infinity]}}'), "b, has no offsets"),
        (lambda path: with_header(path, b'{"b": {"data_offsets": [0, 1e999]}}'), "b, has no offsets"),
        (lambda path: with_header(path, b'{"b": {"data_offsets": [9, 1]}}'), "b, has no offsets"),
        (lambda path: with_header(path, b'{"b": {"data_offsets": [-1, 0]}}'), "b, has no offsets"),
        (lambda path: with_header(path, b'{"b": {"data_offsets": 7}}'), "b, has no offsets"),
        (lambda path: with_header(path, b"[" * 100_000), "its header is not a table of tensors (nested too deep)"),
    ],
)
def test_a_damaged_shard_is_named_with_expected_and_actual_bytes(model_dir, damage, expected):
    path = model_dir / "model-2.safetensors"
    size = path.stat().st_size
    damage(path)
    (problem,) = look(model_dir).problems
    assert expected.format(size=size, less=size - 1, more=size + 1) in problem.message
    assert problem.message.startswith(str(path))
    assert problem.exit_code == ExitCode.DATA


def test_every_damaged_shard_is_told(model_dir):
    truncate(model_dir / "model-1.safetensors")
    truncate(model_dir / "model-2.safetensors")
    (problem,) = look(model_dir).problems
    assert "model-1" in problem.message
    assert "model-2" in problem.message


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("config.json", POINTER, "git-LFS pointer"),
        ("config.json", b"{", "is not a JSON object"),
        ("config.json", b"", "is not a JSON object"),
        ("config.json", b"[1]", "is not a JSON object (not a table of names and values)"),
        ("config.json", b"[" * 100_000, "is not a JSON object (nested too deep)"),
        ("config.json", b'{"architectures": 5}', "its architectures are no list"),
        ("tokenizer_config.json", b"5", "is not a JSON object"),
        ("tokenizer.json", b"", "has 0 bytes"),
        ("tokenizer.json", bytes(1000), "is not a whole JSON object; it has 1000 bytes"),
        ("tokenizer.json", b'{"model": ' + b"1" * 200, "is not a whole JSON object; it has 210 bytes"),
        ("tokenizer.json", POINTER, "git-LFS pointer"),
        ("model.safetensors.index.json", b'{"weight_map": {}}', "names no weights"),
        ("model.safetensors.index.json", b"[" * 100_000, "is not an index of weights"),
        ("model.safetensors.index.json", b'{"weight_map": [1]}', "is not an index of weights"),
        ("model.safetensors.index.json", b"{}", "is not an index of weights"),
        ("model.safetensors.index.json", POINTER, "git-LFS pointer"),
        ("model.safetensors.index.json", b'{"weight_map": {"a": "../x"}}', "names files outside"),
    ],
)
def test_a_damaged_table_is_named(model_dir, name, content, expected):
    (model_dir / name).write_bytes(content)
    (problem,) = look(model_dir).problems
    assert expected in problem.message
    assert problem.message.startswith(str(model_dir / name))
    assert problem.exit_code == ExitCode.DATA


def test_an_index_is_no_weights(model_dir):
    for file in model_dir.glob("model*"):
        file.unlink()
    (model_dir / "pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "pytorch_model.bin"}}')
    (problem,) = look(model_dir).problems
    assert "has an index of weights, but no weights" in problem.message
    assert problem.exit_code == ExitCode.DATA


def test_a_tokenizer_that_is_not_used_may_be_damaged(model_dir):
    (model_dir / "tokenizer.json").write_bytes(b"")
    assert look(model_dir, tokenizer_path="org/t").problems == []
    assert look(model_dir, engine_args={"skip-tokenizer-init": True}).problems == []
    assert look(model_dir).problems != []


def test_a_missing_chat_template_is_a_notice_for_a_model_that_generates(model_dir):
    (model_dir / "tokenizer_config.json").write_text("{}")
    (notice,) = look(model_dir).notices
    assert "no chat template" in notice
    assert look(model_dir, chat_template="{{ messages }}").notices == []
    (model_dir / "config.json").write_text(json.dumps({"architectures": ["BertModel"]}))
    assert look(model_dir).notices == []


def test_other_files_that_were_named_must_exist(model_dir):
    assert "no such file" in look(model_dir, chat_template="/does/not/exist.jinja").problems[0].message
    assert "adapter_config.json" in look(model_dir, lora_paths=("a=/does/not/exist",)).problems[0].message


def test_the_place_of_the_path_is_told(configure, model_dir):
    truncate(model_dir / "model-1.safetensors")
    resolved = configure(env={"ICHAT_MODEL_PATH": str(model_dir)})
    with pytest.raises(ConfigError) as caught:
        preflight(resolved)
    assert caught.value.exit_code == ExitCode.DATA
    assert caught.value.line().startswith("ichat: error[E-MODEL-DATA] ICHAT_MODEL_PATH: ")


def test_a_hundred_shards_with_large_headers_take_less_than_two_seconds(tmp_path):
    path = tmp_path / "large"
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "tokenizer.json").write_text("{}")
    for i in range(100):
        shard(path / f"{i}.safetensors", {f"layer.{i}.{n}": 1 for n in range(1000)})
    began = time.perf_counter()
    assert look(path).problems == []
    assert time.perf_counter() - began < 2


def test_every_model_is_checked_and_all_that_is_wrong_is_told_at_once(configure, model_dir):
    yaml = f"models:\n  a: {{model_path: /no/a}}\n  b: {{model_path: {model_dir}}}\n  c: {{model_path: /no/c}}\n"
    with pytest.raises(ConfigError) as caught:
        preflight(configure(yaml=yaml))
    assert [problem.message.split(":")[0] for problem in caught.value.problems] == ["/no/a", "/no/c"]
    assert [problem.place.rpartition("configs.yaml:")[2] for problem in caught.value.problems] == ["2:19:", "4:19:"]
    assert caught.value.exit_code == ExitCode.NO_INPUT


def test_what_is_worth_knowing_is_told_of_every_model(configure, model_dir):
    (model_dir / "tokenizer_config.json").unlink()
    yaml = f"models:\n  a: {{model_path: {model_dir}}}\n  b: {{model_path: {model_dir}}}\n"
    assert [notice.partition(":")[0] for notice in preflight(configure(yaml=yaml))] == ["a", "b"]
