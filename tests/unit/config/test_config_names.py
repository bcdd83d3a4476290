"""Names that clients may ask for: each belongs to one model."""

import pytest


def test_the_first_name_is_the_served_one_and_aliases_follow(configure):
    yaml = "models: {m: {model_path: org/m, aliases: [gpt-4, org/m:latest]}}"
    assert configure(yaml=yaml).settings.models[0].served_names == ("m", "gpt-4", "org/m:latest")


def test_aliases_may_be_given_outside_of_the_file(configure):
    for resolved in (
        configure("--model-path=org/m", "--aliases", "a", "b"),
        configure("--model-path=org/m", env={"ICHAT_ALIASES": "a b"}),
    ):
        assert resolved.settings.models[0].served_names == ("org/m", "a", "b")


TWO = "models:\n  a: {model_path: org/a, %s}\n  b: {model_path: org/b, %s}\n"


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (
            "served_model_name: x",
            "served_model_name: x",
            'configs.yaml:3:45 models.b.served_model_name: "x" is a name of a too (configs.yaml:2:45).',
        ),
        ("seed: 1", "served_model_name: a", 'models.b.served_model_name: "a" is a name of a too (configs.yaml:2:3).'),
        (
            "aliases: [x, w]",
            "aliases: [z, w]",
            'configs.yaml:3:39 models.b.aliases.1: "w" is a name of a too (configs.yaml:2:39).',
        ),
        ("aliases: [b]", "seed: 1", 'configs.yaml:3:3 models.b: "b" is a name of a too (configs.yaml:2:36).'),
    ],
)
def test_a_name_of_two_models_is_refused_with_both_places(lines, first, second, expected):
    (line,) = lines(yaml=TWO % (first, second))
    assert expected in line


def test_a_name_said_twice_of_one_model_is_refused(lines):
    assert lines(yaml="models:\n  m:\n    model_path: org/m\n    aliases: [x, m]\n") == [
        'configs.yaml:4:18 models.m.aliases.1: "m" is a name of this model already (configs.yaml:2:3). Say it once.'
    ]
    assert lines("--model-path=org/m", "--aliases=org/m") == [
        '--aliases: "org/m" is a name of this model already. Say it once.'
    ]


def test_an_alias_is_a_name(lines):
    (line,) = lines(yaml="models: {m: {model_path: org/m, aliases: ['a b']}}")
    assert "models.m.aliases: entry 1 of the list does not fit" in line


def test_a_colon_in_a_name_marks_an_adapter_for_sglang_only(lines, configure):
    yaml = "models: {m: {backend: %s, model_path: org/m, aliases: ['a:b']}}"
    assert 'aliases: "a:b" has a colon, which marks an adapter for SGLang' in lines(yaml=yaml % "sglang")[0]
    assert configure(yaml=yaml % "vllm").settings.models[0].aliases == ("a:b",)


def test_several_names_in_vllms_own_words_are_a_name_and_aliases(configure):
    args = "engine_args: {served-model-name: [x, gpt-4]}"
    for resolved in (
        configure(yaml=f"models: {{m: {{model_path: org/m, {args}}}}}"),
        configure("--model-path=org/m", env={"ICHAT_VLLM_ARGS": "--served-model-name x gpt-4"}),
    ):
        model = resolved.settings.models[0]
        assert (model.served_names, model.engine_args, model.extra_argv) == (("x", "gpt-4"), {}, ())


def test_an_adapter_is_asked_for_as_its_engine_wants_it(configure):
    yaml = "models: {m: {backend: %s, model_path: org/m, aliases: [other], lora_paths: [sql=/a, tax=/b]}}"
    assert configure(yaml=yaml % "vllm").settings.models[0].served_names == ("m", "other", "sql", "tax")
    names = configure(yaml=yaml % "sglang").settings.models[0].served_names
    assert names == ("m", "other", "m:sql", "other:sql", "m:tax", "other:tax")


def test_the_name_of_an_adapter_is_nobody_elses(lines):
    (line,) = lines(yaml=TWO % ("lora_paths: [x=/a]", "aliases: [x]"))
    assert 'models.b.aliases.0: "x" is a name of a too (configs.yaml:2:39).' in line
