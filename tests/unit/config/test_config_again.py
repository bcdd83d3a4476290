"""The same sources read again, as for a reload: what is there now, and nothing kept from before."""

import pytest

from ichat.backends.engines import load_engines
from ichat.config.resolve import resolve
from ichat.config.sources import Sources
from ichat.errors import ConfigError

FULL = """\
server: {port: 81, api_keys: {alice: a}}
admin: {token: t}
models:
  m: {model_path: org/m, aliases: [other], gpus: [0, 1], env: {A: b}}
  k: {model_path: org/k, backend: sglang, gpus: 1, engine_args: {page-size: 16}}
"""


def read(path, env=None):
    return resolve(Sources.read(["--config", str(path)], env or {}), load_engines())


def test_the_same_gives_equal_settings_and_another_secret_does_not(tmp_path):
    path = tmp_path / "configs.yaml"
    path.write_text(FULL)
    first = read(path)
    assert read(path).settings == first.settings
    for old, new in (("alice: a", "alice: b"), ("token: t", "token: u"), ("A: b", "A: c"), ("[0, 1]", "[0, 2]")):
        path.write_text(FULL.replace(old, new))
        changed = read(path)
        assert changed.settings != first.settings
        assert (changed.settings.models == first.settings.models) == (old in {"alice: a", "token: t"})
    path.write_text(FULL)
    assert read(path) == first


def test_models_come_and_go(tmp_path):
    path = tmp_path / "configs.yaml"
    names = []
    for text in ("models: {a: {model_path: org/a}}", FULL, "models: {b: {model_path: ${B}}}".replace("${B}", "org/b")):
        path.write_text(text)
        names.append([model.name for model in read(path).settings.models])
    assert names == [["a"], ["m", "k"], ["b"]]


def test_an_error_between_two_readings_leaves_nothing_behind(tmp_path):
    path = tmp_path / "configs.yaml"
    path.write_text(FULL)
    first = read(path)
    path.write_text(FULL + "  m: {}\n  x: {seed: s}\n")
    with pytest.raises(ConfigError):
        read(path)
    path.write_text(FULL)
    assert read(path) == first


def test_the_environment_is_that_of_the_reading(tmp_path):
    path = tmp_path / "configs.yaml"
    path.write_text("models:\n  m:\n    model_path: ${WHERE}\n")
    assert read(path, {"WHERE": "org/a"}).settings.models[0].model_path == "org/a"
    assert read(path, {"WHERE": "org/b"}).settings.models[0].model_path == "org/b"
