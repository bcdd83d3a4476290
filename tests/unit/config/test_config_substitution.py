"""Variables of the environment within the file: ${NAME} and ${NAME:-default}."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ichat.backends.explain import render_explain
from ichat.config.preflight import preflight
from ichat.config.report import render_config
from ichat.errors import ConfigError, ExitCode

MODEL = "models: {m: {model_path: org/m}}\n"
CANARY = "canary-7d11"


@pytest.mark.parametrize(
    ("env", "written", "port"),
    [
        ({"P": "81"}, "${P}", 81),
        ({"P": "81"}, "${P:-82}", 81),
        ({}, "${P:-82}", 82),
        ({"P": ""}, "${P:-82}", 82),
        ({"P": " 81\n"}, "${P}", 81),
        ({"P": "8", "Q": "1"}, "${P}${Q}", 81),
        ({"P_1": "1"}, "8${P_1}", 81),
    ],
)
def test_a_plain_word_is_typed_by_its_result(configure, env, written, port):
    resolved = configure(yaml=f"{MODEL}server:\n  port: {written}\n", env=env)
    assert resolved.settings.server.port == port
    assert resolved.origins["server.port"].endswith("configs.yaml:3:9")


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ('"${P}"', 'the text "81" (from P); remove the quotes.'),
        ("${Q}", "`soon` (from Q)."),
        ("${Q}${P}", "`soon81` (from Q, P)."),
        ("${EMPTY}", "nothing (from EMPTY)."),
        ("${YES}", "`yes` (from YES)."),
    ],
)
def test_a_value_of_the_wrong_kind_tells_where_it_comes_from(lines, written, found):
    env = {"P": "81", "Q": "soon", "EMPTY": "", "YES": "yes"}
    assert lines(yaml=f"{MODEL}server:\n  port: {written}\n", env=env) == [
        f"configs.yaml:3:9 server.port: expected a whole number from 0 to 65535, found {found}"
    ]


def test_a_quoted_word_stays_text(configure):
    model = configure(
        yaml='models: {m: {model_path: org/m, engine_args: {generation-config: "${P}"}}}', env={"P": "5"}
    ).settings.models[0]
    assert model.engine_args == {"generation-config": "5"}


def test_they_are_read_within_a_text_and_in_lists_and_mappings_of_any_depth(configure):
    yaml = """
defaults:
  env: {HOME_OF: "${HOME}/x", PLAIN: "$HOME $$ ${HOME:-}"}
models:
  m:
    model_path: ${ORG}/${NAME:-qwen}
    aliases:
    - ${NAME:-qwen}
    - "${ORG}-x"
    engine_args:
      hf-overrides: {a: [{b: "${NUMBER}"}]}
      max-num-batched-tokens: ${NUMBER}
"""
    model = configure(yaml=yaml, env={"HOME": "/root", "ORG": "org", "NUMBER": "7"}).settings.models[0]
    assert model.model_path == "org/qwen"
    assert model.aliases == ("qwen", "org-x")
    assert model.env == {"HOME_OF": "/root/x", "PLAIN": "$HOME $$ /root"}
    assert model.engine_args == {"hf-overrides": {"a": [{"b": "7"}]}, "max-num-batched-tokens": 7}


def test_a_value_is_never_read_again(configure):
    yaml = MODEL + "server:\n  run_dir: ${A}\n"
    assert configure(yaml=yaml, env={"A": "${B}", "B": "x"}).settings.server.run_dir == "${B}"


def test_the_sign_itself_is_written_with_two_dollars(configure):
    yaml = "models: {m: {model_path: org/m, chat_template: '$${x} $x $$ {{ y }}'}}"
    assert configure(yaml=yaml).settings.models[0].chat_template == "${x} $x $$ {{ y }}"


def test_an_unset_variable_is_an_error_with_its_place_and_its_name_and_nothing_that_follows_from_it(refuse, scratch):
    yaml = "server:\n  port: ${PORT}\nmodels:\n  m:\n    model_path: ${WHERE}/m\n    env:\n      A: a ${A_B}\n"
    problems = refuse(yaml=yaml)
    assert [(p.place.replace(f"{scratch}/", ""), p.message) for p in problems] == [
        ("configs.yaml:2:9", "server.port: the variable PORT is not set. Set it, or write ${PORT:-default}."),
        (
            "configs.yaml:5:17",
            "models.m.model_path: the variable WHERE is not set. Set it, or write ${WHERE:-default}.",
        ),
        ("configs.yaml:7:10", "models.m.env.A: the variable A_B is not set. Set it, or write ${A_B:-default}."),
    ]
    assert {p.code for p in problems} == {"E-CFG-UNSET-VARIABLE"}
    assert ConfigError(problems).exit_code == ExitCode.CONFIG


@pytest.mark.parametrize("written", ["${", "${}", "${1}", "${A-b}", "${A:?b}", "${A:-${B}}", "${A b}", "${A", "x${-}"])
def test_another_form_is_refused(lines, written):
    (line,) = lines(yaml=f"{MODEL}server: {{run_dir: '{written}'}}", env={"A": "a", "B": "b"})
    assert line.startswith("configs.yaml:2:19 server.run_dir: a variable that begins with ${ has another form. Write")


def test_a_key_is_taken_as_it_is(lines):
    yaml = "models:\n  ${NAME}:\n    model_path: org/m\n    env: {'${A}': b}\n"
    assert lines(yaml=yaml, env={"NAME": "m", "A": "a"})[:2] == [
        "configs.yaml:2:3 ${NAME}: variables are read in values, not in keys. Write the key itself.",
        "configs.yaml:4:11 ${A}: variables are read in values, not in keys. Write the key itself.",
    ]


def test_where_yaml_cannot_read_it_the_error_says_how(lines):
    for yaml in ("server: {port: ${PORT}}", "models: {m: {model_path: org/m, aliases: [${A}]}}"):
        assert lines(yaml=yaml)[0].endswith('Within {…} and […] write "${NAME}" in quotes, or one entry a line.')


def test_a_model_that_is_not_served_here_may_have_variables_that_are_not_set_here(configure, lines):
    yaml = "models:\n  a:\n    model_path: ${A_PATH}\n  b:\n    model_path: ${B_PATH}\n"
    env = {"A_PATH": "org/a", "ICHAT_MODELS": "a"}
    assert configure(yaml=yaml, env=env).settings.models[0].model_path == "org/a"
    assert "B_PATH is not set" in lines(yaml=yaml, env={"A_PATH": "org/a"})[0]


def test_a_variable_in_the_file_is_no_unknown_setting(configure, lines):
    yaml = "models:\n  m:\n    model_path: ${ICHAT_WHERE}\n    seed: ${ICHAT_MODELS__X__Y:-1}\n"
    env = {"ICHAT_WHERE": "org/m", "ICHAT_MODELS__X__Y": "5"}
    assert configure(yaml=yaml, env=env).settings.models[0].seed == 5
    assert "ICHAT_OTHER: unknown variable" in lines(yaml=yaml, env=env | {"ICHAT_OTHER": "1"})[0]


def test_the_environment_still_goes_before_the_file(configure):
    yaml = MODEL + "server:\n  port: ${P}\n"
    assert configure(yaml=yaml, env={"P": "1", "ICHAT_PORT": "2"}).settings.server.port == 2


def test_a_key_of_a_client_may_come_from_any_variable(configure):
    yaml = MODEL + "server:\n  api_keys:\n    alice: ${ALICE}\n"
    keys = configure(yaml=yaml, env={"ALICE": "a"}).settings.server.api_keys
    assert keys["alice"].get_secret_value() == "a"


@pytest.mark.parametrize(
    "setting",
    [
        "seed: ${MY_TOKEN}",
        "engine_args: {block-size: '${MY_TOKEN}'}",
        "engine_args:\n      block-size: ${MY_TOKEN}",
        "engine_args:\n      runner: a-${MY_TOKEN}",
        "gpus: ${MY_TOKEN}",
        "gpus:\n    - ${MY_TOKEN} x",
        "aliases:\n    - a b ${MY_TOKEN}",
        "dist_init_addr: ${MY_TOKEN}",
        "served_model_name: ${MY_TOKEN} x",
        "extra_argv:\n    - --x=${MY_TOKEN}",
        "extra_argv:\n    - stray-${MY_TOKEN}",
        "lora_paths:\n    - ${MY_TOKEN}\n    enable_lora: false",
        "aliases:\n    - ${MY_TOKEN}\n    - ${MY_TOKEN}",
    ],
)
@pytest.mark.parametrize("name", ["MY_TOKEN", "OPENAI_KEY", "DB_PASS"])
def test_the_value_of_a_variable_that_sounds_like_a_secret_is_in_no_error(lines, setting, name):
    yaml = f"models:\n  m:\n    model_path: org/m\n    {setting.replace('MY_TOKEN', name)}\n"
    found = lines(yaml=yaml, env={name: CANARY})
    assert CANARY not in " ".join(found)


def test_it_is_on_no_page_either(configure):
    yaml = """
models:
  m:
    model_path: /no/${MY_TOKEN}
    seed: ${SHORT_PASS}
    aliases:
    - a-${MY_TOKEN}
    engine_args:
      generation-config: x ${MY_TOKEN}
      hf-overrides: {a: "${QUOTED_KEY}"}
    extra_argv:
    - --load-format=${MY_TOKEN}
    env: {A: "${MY_TOKEN}", B: "${QUOTED_KEY}"}
"""
    quoted = f"'\"{CANARY}\\"
    resolved = configure(yaml=yaml, env={"MY_TOKEN": CANARY, "SHORT_PASS": "81", "QUOTED_KEY": quoted})
    assert resolved.settings.models[0].env == {"A": CANARY, "B": quoted}
    for page in (render_config(resolved), render_explain(resolved, lambda _model: "cpu")):
        assert CANARY not in page
        assert "--seed=81" not in page
        assert "seed: 81" not in page
        assert page.count("********") >= 6
    with pytest.raises(ConfigError) as caught:
        preflight(resolved)
    assert CANARY not in str(caught.value)


def test_the_value_of_any_other_variable_is_shown(configure):
    yaml = "models:\n  m:\n    model_path: ${WHERE}\n"
    assert "model_path: org/m" in render_config(configure(yaml=yaml, env={"WHERE": "org/m"}))


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.text(st.characters(exclude_categories=["C"]), min_size=1), st.booleans())
def test_any_text_arrives_as_it_is_where_quotes_say_that_it_is_text(configure, text, is_default):
    if is_default:
        text = text.replace("}", "").replace("${", "").replace("'", "") or "x"
    yaml = "models: {m: {model_path: org/m, env: {A: '%s'}}}" % (f"${{V:-{text}}}" if is_default else "${V}")
    model = configure(yaml=yaml, env={} if is_default else {"V": text}).settings.models[0]
    assert model.env == {"A": text}
