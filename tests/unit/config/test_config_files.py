"""What is generated is up to date, and every configuration in the repository holds."""

import json
import re

import jsonschema
import pytest
import yaml

from ichat.backends.reference import ROOT, render
from ichat.config.document import parse
from ichat.config.kinds import kinds
from ichat.config.names import sections, variables, words
from ichat.config.schema import ModelSettings
from ichat.config.settings_file import read_file

CONFIGS = ROOT / "configs"
SCHEMA = jsonschema.Draft202012Validator(json.loads((CONFIGS / "configs.schema.json").read_text()))


@pytest.mark.parametrize("path", render())
def test_what_is_generated_is_up_to_date(path):
    assert (ROOT / path).read_text("utf-8") == render()[path], "run `python -m ichat.backends.reference`"


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """The environment that the examples ask for."""
    secrets = tmp_path_factory.mktemp("secrets")
    for name in ("alice", "batch"):
        (secrets / name).write_text(f"key of {name}\n")
    return {
        "SECRETS_DIR": str(secrets),
        "DOMAIN": "llm.example.org",
        "ADMIN_TOKEN": "t",
        "ROUTER": "http://router:30000",
        "POD_IP": "10.0.0.7",
    }


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda p: p.name)
def test_every_file_in_configs_loads_and_names_its_schema(path, configure, outside):
    argv = ("--model-path=org/x",) if path.name == "configs.yaml" else ()  # it names no model
    resolved = configure(*argv, yaml=path.read_bytes(), env=outside)
    assert resolved.settings.models
    first = path.read_text().splitlines()[0]
    schema = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", first)
    assert schema is not None
    assert (path.parent / schema[1]).resolve() == CONFIGS / "configs.schema.json"


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda p: p.name)
def test_every_file_in_configs_is_right_by_the_schema(path):
    assert not list(SCHEMA.iter_errors(yaml.safe_load(path.read_text())))


@pytest.mark.parametrize(
    "text",
    [
        "server: {prot: 1}",
        "server: {port: '8000'}",
        "server: {api_keys: [a]}",
        "models: {m: {gpus: -1}}",
        "models: {m: {gpus: 1.5}}",
        "models: {m: {gpus: []}}",
        "models: {m: {gpus: [[]]}}",
        "models: {m: {gpus: [0, [1]]}}",
        "models: {m: {gpus: {a: 1}}}",
        "models: {m: {aliases: x}}",
        "models: {m: {backend: fake}}",
        "front: {processes: 65}",
    ],
)
def test_the_schema_refuses_what_the_resolver_refuses(text, lines):
    assert list(SCHEMA.iter_errors(yaml.safe_load(text)))
    if "fake" not in text:  # which is for tests
        assert lines("--model-path=org/m", yaml=text)


@pytest.mark.parametrize("gpus", ["0", "2", "[0, 1]", "[[0, GPU-1], ['2', 3]]", "'${GPUS}'", "[['${GPU}']]"])
def test_the_schema_knows_how_gpus_are_written(gpus):
    assert not list(SCHEMA.iter_errors(yaml.safe_load(f"models: {{m: {{gpus: {gpus}}}}}")))


def test_the_example_for_either_engine_runs_on_either(configure):
    text = (CONFIGS / "examples/either-engine.yaml").read_bytes()
    assert configure(yaml=text).settings.models[0].backend == "vllm"
    assert configure("--backend=sglang", yaml=text).settings.models[0].engine_args == {"disable-cuda-graph": True}


def test_the_default_file_has_every_key_and_switching_them_on_changes_nothing(configure):
    text = (CONFIGS / "configs.yaml").read_text()
    on = re.sub(r"^(\s*)#(?=[a-z_])", r"\1", text, flags=re.MULTILINE).partition("models:")[0]
    found = read_file(parse("configs.yaml", on.encode()))
    assert found.problems == []
    keys = {".".join(path) for path in found.givens}
    assert keys == {".".join((*path, name)) for path, section in sections().items() for name in kinds(section)} | {
        f"defaults.{name}" for name in kinds(ModelSettings)
    }
    env = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}  # where linger_s holds as it stands in the file
    assert (
        configure("--model-path=org/m", env=env, yaml=on).settings == configure("--model-path=org/m", env=env).settings
    )


def test_the_example_of_a_model_in_the_default_file_holds(configure):
    text = (CONFIGS / "configs.yaml").read_text()
    models = "models:" + text.rpartition("\nmodels:")[2]
    assert (
        configure(yaml=re.sub(r"^(\s*)#(?=[a-z_])", r"\1", models, flags=re.MULTILINE)).settings.models[0].name
        == "qwen"
    )


def test_the_schema_knows_what_the_resolver_knows():
    schema = json.loads((CONFIGS / "configs.schema.json").read_text())
    assert set(schema["properties"]) == {path[0] for path in sections()} | {"defaults", "models"}
    model = schema["$defs"]["ModelSettings"]
    assert set(model["properties"]) == set(ModelSettings.model_fields)
    assert model["additionalProperties"] is False
    assert "fake" not in json.dumps(schema)
    assert all("description" in field for field in model["properties"].values())


def test_every_variable_and_word_is_in_the_reference():
    page = (ROOT / "docs/configuration.md").read_text()
    assert [name for name in variables() if not name.startswith("ICHAT_DEFAULTS__") and f"`{name}`" not in page] == []
    assert [word for word in words() if f"`{word}`" not in page] == []
    for name in ("ICHAT_CONFIG", "ICHAT_DEBUG", "ICHAT_VLLM_ARGS", "ICHAT_API_KEY_FILE", "HF_TOKEN_FILE", "MODEL_ID"):
        assert f"`{name}" in page


def test_the_examples_of_error_lines_in_the_reference_are_real(lines):
    page = (ROOT / "docs/configuration.md").read_text()
    (line,) = lines("--model-path=org/m", "--backend=sglang", "--max-model-len=5")
    assert f"ichat: error[E-CFG-UNKNOWN-FLAG] {line}" in page
