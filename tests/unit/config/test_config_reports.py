"""`ichat config` and `ichat explain`: true to the letter, and silent on secrets."""

from ichat.backends.explain import render_explain
from ichat.config.report import render_config

CANARY = "canary-77ab"


def test_each_setting_is_shown_with_its_origin(configure):
    yaml = "models:\n  qwen:\n    model_path: org/q\n    engine_args: {enforce-eager: true}\n"
    page = render_config(configure("--max-model-len=9", "--block-size=16", env={"ICHAT_PORT": "81"}, yaml=yaml))
    lines = {line.split("#")[0].strip(): line.split("#")[1].strip() for line in page.splitlines() if "#" in line}
    assert lines["port: 81"] == "ICHAT_PORT"
    assert lines["host: 0.0.0.0"] == "default"
    assert lines["context_length: 9"] == "--max-model-len"
    assert lines["model_path: org/q"].endswith("configs.yaml:3:17")
    assert lines["enforce-eager: true"].endswith("configs.yaml:4:34")
    assert lines["extra_argv: [--block-size=16]"] == "--block-size"


def test_no_secret_is_shown(configure):
    env = {"ICHAT_API_KEY": CANARY, "HF_TOKEN": CANARY, "ICHAT_ENV__X": ""}
    yaml = f"models: {{m: {{model_path: org/m, env: {{MY_TOKEN: {CANARY}}}, engine_args: {{hf-token: {CANARY}}}}}}}"
    resolved = configure(env=env, yaml=yaml)
    assert CANARY not in render_config(resolved)
    assert CANARY not in render_explain(resolved, lambda _model: "cpu")
    resolved = configure("--model-path=org/m", "--hf-token", CANARY, f"--api-key={CANARY}")
    assert CANARY not in render_config(resolved)
    assert CANARY not in render_explain(resolved, lambda _model: "cuda")
    assert CANARY not in " ".join(resolved.notices)
    assert any("--api-key" in notice for notice in resolved.notices)


def test_no_secret_is_shown_that_is_deep_inside_a_value(configure):
    yaml = f"""
models:
  m:
    model_path: org/m
    engine_args:
      override-generation-config: {{api_key: {CANARY}, inner: [{{token: 4711, password: [{CANARY}]}}], top_p: 0.5}}
      hf-overrides: '{{"apiKey": "{CANARY}"}}'
    kv_events_config: {{publisher: zmq, password: {CANARY}}}
    env: {{OPTIONS: '[{{"password": "{CANARY}"}}]'}}
    extra_argv: ['--speculative-config={{"api_key": "{CANARY}"}}', --compilation-config, '{{"secret": "{CANARY}"}}']
"""
    resolved = configure(yaml=yaml)
    for page in (render_config(resolved), render_explain(resolved, lambda _model: "cpu")):
        assert CANARY not in page
        assert "4711" not in page
        assert page.count("********") >= 7
        assert "top_p" in page
    assert resolved.settings.models[0].engine_args["override-generation-config"]["api_key"] == CANARY


def test_what_only_sounds_like_a_secret_is_shown(configure):
    args = "{bucket-time-to-first-token: [0.5], kt-max-deferred-experts-per-token: 2, max-total-tokens: 4096}"
    page = render_config(configure(yaml=f"models: {{m: {{model_path: org/m, backend: sglang, engine_args: {args}}}}}"))
    assert "[0.5]" in page
    assert "per-token: 2" in page
    assert "max-total-tokens: 4096" in page


def test_explain_shows_both_engines_and_what_gets_lost(configure):
    yaml = "models: {m: {model_path: org/m, memory_fraction: 0.9, engine_args: {enforce-eager: true, swap-x: null}}}"
    yaml = yaml.replace(", swap-x: null", "")
    page = render_explain(configure("-O3", yaml=yaml), lambda _model: "cuda")
    assert "m on vLLM 0.32.0 (cuda):" in page
    assert "--gpu-memory-utilization=0.9" in page
    assert "the same on SGLang 0.5.21 (cuda):" in page
    assert "--mem-fraction-static=0.81" in page
    assert "nine tenths of it" in page
    assert "--enforce-eager: SGLang has --disable-cuda-graph" in page
    assert "--optimization-level: SGLang has no such flag" in page
    assert "HF_HUB_OFFLINE" not in page


def test_the_conversion_of_the_memory_fraction_is_noticed(configure):
    (notice,) = configure("--model-path=org/m", "--backend=sglang", "--memory-fraction=0.9").notices
    assert "--mem-fraction-static 0.81" in notice
    assert configure("--model-path=org/m", "--memory-fraction=0.9").notices == ()


def test_what_is_worth_knowing_is_told_of_every_model(configure):
    yaml = "defaults: {trust_remote_code: true}\nmodels: {a: {model_path: org/a}, b: {model_path: org/b}}"
    first, second = configure(yaml=yaml).notices
    assert first.startswith("a: trust_remote_code is on")
    assert second.startswith("b: trust_remote_code is on")
