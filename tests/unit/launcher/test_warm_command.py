"""`ichat warm` serves once for nobody, and leaves nothing but what it wrote into the caches."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ichat import cli
from ichat.backends.engines import load_engines
from ichat.config.resolve import resolve
from ichat.config.schema import Model
from ichat.config.sources import Sources
from ichat.errors import UsageError
from ichat.launcher import warm_without_device as without

MODELS = """
models:
  a: {backend: fake, model_path: fake/a}
  b: {backend: fake, model_path: fake/b, engine_args: {notes: NOTES, fail_in: FAIL}}
server: {port: 1, host: 192.0.2.1, api_key: secret}
admin: {token: secret, port: 2}
"""


def warm(tmp_path: Path, fail_in: str = "never", **more: str) -> subprocess.CompletedProcess[str]:
    """The caches are below ``tmp_path``; the fake engine's notes stand for what an engine writes there."""
    notes = tmp_path / "triton" / "notes"
    notes.parent.mkdir(exist_ok=True)
    file = tmp_path / "configs.yaml"
    file.write_text(MODELS.replace("NOTES", str(notes)).replace("FAIL", fail_in))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ICHAT_")}
    env = kept | {"HOME": str(tmp_path), "TRITON_CACHE_DIR": str(notes.parent), "HF_HOME": str(tmp_path / "hf")}
    env |= more
    command = [sys.executable, "-m", "ichat", "warm", "--config", str(file)]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)


def test_it_comes_to_ready_asks_every_model_tells_what_was_written_and_leaves(tmp_path: Path) -> None:
    found = warm(tmp_path)
    assert found.returncode == 0, found.stderr
    said = found.stdout
    assert "warm: ready after " in said
    assert "  a (fake): 6 requests in " in said
    assert "  b (fake): 6 requests in " in said
    (line,) = (line for line in said.splitlines() if line.startswith("  Triton"))
    assert "+1 files" in line
    assert str(tmp_path / "triton") in line
    assert "nothing new: " in said
    assert "192.0.2.1" not in found.stderr, "the configured address is nobody's while it warms"
    assert not list(Path("/tmp").glob(f"ichat-warm-{os.getpid()}*"))


def test_one_that_does_not_come_to_ready_ends_with_its_code(tmp_path: Path) -> None:
    found = warm(tmp_path, "weights")
    assert found.returncode == 69
    assert "  failed b: " in found.stdout, "told beside those that are warm"
    assert "  a (fake): 6 requests in " in found.stdout


def test_where_nothing_comes_to_ready_there_is_only_the_error(tmp_path: Path) -> None:
    found = warm(tmp_path, "weights", ICHAT_MODELS="b")
    assert found.returncode == 69
    assert "the script fails in weights" in found.stderr
    assert found.stdout == ""


@pytest.mark.parametrize(
    ("text", "arch"),
    [("sm_90", "9.0"), ("sm90", "9.0"), ("9.0", "9.0"), ("SM_100", "10.0"), ("sm_90a", "9.0"), ("sm_120", "12.0")],
)
def test_an_architecture_is_written_in_several_ways(text: str, arch: str) -> None:
    assert without.read_arch(text) == arch


@pytest.mark.parametrize("text", ["hopper", "sm_9", "", "90.0.1"])
def test_what_is_no_architecture_is_64(text: str) -> None:
    with pytest.raises(UsageError, match=r"--arch: .* sm_90"):
        without.read_arch(text)


def test_without_a_device_the_engines_own_python_does_each_item_and_says_how_it_went(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "ichat"))
    python = tmp_path / "sglang" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(
        '#!/bin/sh\necho noise of a library\necho \'{"item": "\'"$*"\'", "is_done": true, "words": "/so", "took_s": 2}\'\n'
        'echo \'{"item": "cubins", "is_done": false, "words": "ConnectError: no", "took_s": 1}\'\nexit 3\n'
    )
    python.chmod(0o755)
    models = [Model(name=name, backend="sglang", model_path="org/m") for name in ("a", "b")]
    done, cubins, end = without.warm_without_device(models, "9.0", {"PATH": "/bin:/usr/bin"})
    assert "-m ichat.worker.warm sglang 9.0 --kernel=kernels-community/sgl-flash-attn3@v1" in done.title
    assert without.render(cubins) == "sglang: cubins: not done in 1 s: ConnectError: no"
    assert end.words == "ended with code 3"
    assert without.render_end([done, cubins]).startswith("warm: 1 of 2 done. Triton, torch.compile")


def installed(tmp_path: Path, *engines: str) -> None:
    for engine in engines:
        python = tmp_path / engine / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.touch()


def engines_of(*argv: str) -> list[str]:
    return [model.backend for model in without.models_of(resolve(Sources.read(argv, {}), load_engines()))]


def test_where_nobody_has_chosen_an_engine_all_that_are_installed_are_warmed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, "vllm", "sglang")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "ichat"))
    assert engines_of("--model-path=org/m") == ["vllm", "sglang"]
    assert engines_of("--model-path=org/m", "--backend=sglang") == ["sglang"]
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "other" / "ichat"))
    installed(tmp_path / "other", "sglang")
    assert engines_of("--model-path=org/m") == ["sglang"]


def test_its_own_flags_need_a_value_and_are_no_flags_of_serve(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["warm", "--into"]) == 64
    assert "--into: needs a directory." in capfd.readouterr().err
    assert cli.run(["warm", "--arch=nonsense", "--into", "/x"]) == 64
    assert cli.run(["serve", "--arch=sm_90", "--model-path=org/m"]) == 64


@pytest.mark.parametrize(("is_done", "code"), [("true", 0), ("false", 71)])
def test_it_is_a_failure_when_nothing_at_all_could_be_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_done: str, code: int
) -> None:
    installed(tmp_path, "vllm")
    python = tmp_path / "vllm" / "bin" / "python"
    python.write_text(f'#!/bin/sh\necho \'{{"item": "page", "is_done": {is_done}, "words": "w", "took_s": 1}}\'\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "ichat"))
    assert cli.run(["warm", "--arch=sm_90", "--model-path=org/m", "--into", str(tmp_path)]) == code
