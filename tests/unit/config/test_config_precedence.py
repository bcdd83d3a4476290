"""Command line over environment over YAML over defaults, and where a value came from."""

import pytest

MODEL = "models: {qwen: {model_path: org/qwen, context_length: 100}}"


def test_the_command_line_goes_before_the_environment_before_yaml(configure):
    yaml = f"server: {{port: 1, host: a, log_format: json}}\n{MODEL}"
    resolved = configure("--port", "3", env={"ICHAT_PORT": "2", "ICHAT_HOST": "b"}, yaml=yaml)
    server = resolved.settings.server
    assert (server.port, server.host, server.log_format) == (3, "b", "json")
    assert resolved.origins["server.port"] == "--port"
    assert resolved.origins["server.host"] == "ICHAT_HOST"
    assert resolved.origins["server.log_format"].endswith("configs.yaml:1:40")
    assert "server.run_dir" not in resolved.origins


def test_a_model_goes_before_the_defaults(configure):
    yaml = f"defaults: {{context_length: 1, seed: 7}}\n{MODEL}"
    model = configure(env={"ICHAT_DEFAULTS__SEED": "8"}, yaml=yaml).settings.models[0]
    assert (model.context_length, model.seed) == (100, 8)


@pytest.mark.parametrize(
    "written", ["--context-length=9", "--context_length=9", "--max-model-len=9", "--max_model_len=9"]
)
def test_a_unified_argument_may_be_said_in_the_engines_own_word(configure, written):
    model = configure("--model-path", "org/m", written).settings.models[0]
    assert (model.context_length, model.extra_argv) == (9, ())


def test_the_long_and_the_short_variable_give_the_same_setting(configure):
    env = {"ICHAT_TIMEOUTS__LINGER_S": "0.5", "ICHAT_DRAIN_SECONDS": "12", "ICHAT_SERVER__LIMITS__BODY_BYTES": "99"}
    settings = configure("--model-path", "org/m", env=env).settings
    assert (settings.timeouts.linger_s, settings.timeouts.drain_s) == (0.5, 12)
    assert settings.server.limits.body_bytes == 99


def test_two_variables_for_one_setting_must_agree(lines, configure):
    assert configure("--model-path=org/m", env={"ICHAT_PORT": "1", "ICHAT_SERVER__PORT": "1"}).settings.server.port == 1
    (line,) = lines("--model-path=org/m", env={"ICHAT_PORT": "1", "ICHAT_SERVER__PORT": "2"})
    assert "ICHAT_PORT" in line
    assert "ICHAT_SERVER__PORT" in line


def test_an_empty_variable_is_not_set(configure):
    assert configure(env={"ICHAT_PORT": "", "ICHAT_MODEL_PATH": "org/m"}).settings.server.port == 8000


def test_a_model_is_named_after_its_path_unless_it_is_named(configure, scratch):
    (scratch / "My Model").mkdir(exist_ok=True)
    assert configure("--model-path", "org/m").settings.models[0].name == "org/m"
    assert configure("--model-path", str(scratch / "My Model")).settings.models[0].name == "My-Model"
    assert configure("--model-path", "org/m", env={"ICHAT_MODEL": "x"}).settings.models[0].name == "x"
    assert (
        configure("--model-path", "org/m", "--model-name", "y", env={"ICHAT_MODEL": "x"}).settings.models[0].name == "y"
    )


def test_a_path_in_the_variable_for_the_name_is_noticed(lines):
    found = lines(env={"ICHAT_MODEL": "org/m"})
    assert any("ICHAT_MODEL_PATH" in line for line in found)


@pytest.mark.parametrize("name", ["MODEL_ID", "HF_MODEL_ID"])
def test_foreign_names_of_the_model_count_only_when_nobody_else_names_one(configure, name):
    resolved = configure(env={name: "org/fall-back"})
    assert resolved.settings.models[0].model_path == "org/fall-back"
    assert resolved.origins["models.org/fall-back.model_path"] == name
    assert configure("--model-path", "org/m", env={name: "org/fall-back"}).settings.models[0].model_path == "org/m"
    assert configure(env={name: "org/fall-back"}, yaml=MODEL).settings.models[0].model_path == "org/qwen"


def test_a_local_path_becomes_absolute_and_a_repository_stays(configure, scratch, monkeypatch):
    monkeypatch.chdir(scratch)
    (scratch / "here").mkdir(exist_ok=True)
    assert configure("--model-path", "here").settings.models[0].model_path == str(scratch / "here")
    assert configure("--model-path", "./nowhere").settings.models[0].model_path == str(scratch / "nowhere")
    assert configure("--model-path", "org/name").settings.models[0].model_path == "org/name"


def test_flags_of_the_engine_follow_the_same_order(configure):
    yaml = "models: {m: {model_path: org/m, engine_args: {enforce-eager: true, max-num-batched-tokens: 5, block-size: 16}}}"
    env = {"ICHAT_VLLM_ARGS": "--max-num-batched-tokens 6 --swap-nothing".replace(" --swap-nothing", "")}
    model = configure("--no-enforce-eager", env=env, yaml=yaml).settings.models[0]
    assert model.engine_args == {"block-size": 16}
    assert model.extra_argv == ("--max-num-batched-tokens", "6", "--no-enforce-eager")


def test_the_engines_words_and_the_unified_argument_override_each_other_by_rank(configure):
    yaml = "models: {m: {backend: sglang, model_path: org/m, memory_fraction: 0.5}}"
    model = configure("--mem-fraction-static=0.7", yaml=yaml).settings.models[0]
    assert (model.memory_fraction, model.extra_argv) == (None, ("--mem-fraction-static=0.7",))
    yaml = "models: {m: {backend: sglang, model_path: org/m, engine_args: {mem-fraction-static: 0.7}}}"
    model = configure("--memory-fraction=0.5", yaml=yaml).settings.models[0]
    assert (model.memory_fraction, model.engine_args) == (0.5, {})


def test_arguments_for_one_engine_only_are_kept_for_the_other(configure):
    yaml = "defaults: {vllm_args: {enforce-eager: true}, sglang_args: {disable-cuda-graph: true}}"
    vllm = configure("--model-path=org/m", yaml=yaml).settings.models[0]
    sglang = configure("--model-path=org/m", "--backend=sglang", yaml=yaml).settings.models[0]
    assert (vllm.engine_args, vllm.sglang_args) == ({"enforce-eager": True}, {"disable-cuda-graph": True})
    assert (sglang.engine_args, sglang.vllm_args) == ({"disable-cuda-graph": True}, {"enforce-eager": True})


def test_each_environment_for_the_engines_words_serves_its_own_engine(configure):
    env = {"ICHAT_VLLM_ARGS": "--enforce-eager", "ICHAT_SGLANG_ARGS": "--disable-cuda-graph"}
    assert configure("--model-path=org/m", env=env).settings.models[0].extra_argv == ("--enforce-eager",)
    assert configure("--model-path=org/m", "--backend=sglang", env=env).settings.models[0].extra_argv == (
        "--disable-cuda-graph",
    )


def test_null_takes_back_what_the_defaults_said(configure):
    yaml = "defaults: {seed: 5}\nmodels: {m: {model_path: org/m, seed: null}}"
    assert configure(yaml=yaml).settings.models[0].seed is None


def test_several_models_keep_the_order_of_the_file(configure):
    yaml = "models: {b: {model_path: org/b}, a: {model_path: org/a, instances: 2}}"
    resolved = configure(env={"ICHAT_MODELS__A__SEED": "3"}, yaml=yaml)
    assert [model.name for model in resolved.settings.models] == ["b", "a"]
    assert [(model.seed, model.instances) for model in resolved.settings.models] == [(None, 1), (3, 2)]
    assert resolved.notices == ()


TWO = "models: {a: {model_path: org/a}, b.1: {model_path: org/b, backend: sglang}, c: {model_path: org/c}}"


@pytest.mark.parametrize(
    ("said", "names"), [("b.1", ["b.1"]), ("c, a", ["a", "c"]), ("a b.1", ["a", "b.1"]), (" ", ["a", "b.1", "c"])]
)
def test_a_container_serves_the_models_that_it_is_told_in_the_order_of_the_file(configure, said, names):
    assert [model.name for model in configure(env={"ICHAT_MODELS": said}, yaml=TWO).settings.models] == names


def test_the_only_one_of_several_models_has_the_short_variables(configure):
    env = {"ICHAT_MODELS": "b.1", "ICHAT_CONTEXT_LENGTH": "7", "ICHAT_MODELS__C__SEED": "1"}
    model = configure("--schedule-policy=lpm", env=env, yaml=TWO).settings.models[0]
    assert (model.name, model.context_length) == ("b.1", 7)
    assert model.extra_argv == ("--schedule-policy=lpm",)


def test_a_model_that_is_told_and_not_there_is_a_problem(lines):
    assert lines(env={"ICHAT_MODELS": "b.2"}, yaml=TWO) == [
        'ICHAT_MODELS: the configuration file has no model "b.2"; did you mean b.1?'
    ]
    assert lines(env={"ICHAT_MODELS": "other"}, yaml=TWO) == [
        'ICHAT_MODELS: the configuration file has no model "other"; it has a, b.1, c.'
    ]
    assert "no configuration file names models" in lines("--model-path=x/y", env={"ICHAT_MODELS": "a"})[0]


def test_short_names_do_not_say_which_of_several_models_they_mean(lines):
    yaml = "models: {b.1: {model_path: org/b}, a: {model_path: org/a}}"
    env = {"ICHAT_CONTEXT_LENGTH": "3", "ICHAT_VLLM_ARGS": "--enforce-eager"}
    found = lines("--dtype=auto", "--enforce-eager", env=env, yaml=yaml)
    assert len(found) == 4
    assert all("which model? The file has b.1, a" in line for line in found)
    assert any("ICHAT_MODELS__B_1__CONTEXT_LENGTH" in line for line in found)


def test_secrets_come_from_files_too(configure, scratch):
    (scratch / "key").write_text("s3cret\n")
    resolved = configure(
        "--model-path=org/m", env={"ICHAT_API_KEY_FILE": str(scratch / "key"), "HF_TOKEN_FILE": str(scratch / "key")}
    )
    key = resolved.settings.server.api_key
    assert key is not None
    assert key.get_secret_value() == "s3cret"
    assert resolved.sources.hf_token == "s3cret"
    assert resolved.origins["server.api_key"] == "ICHAT_API_KEY_FILE"
    worker = resolved.sources.worker_environment()
    assert worker == {"HF_TOKEN": "s3cret"}
