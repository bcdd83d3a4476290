"""Wrong input, by the catalogue of faults: S1 to S8. Every problem at once, with its place and the way out."""

import os
import subprocess
import sys
import time
import tracemalloc

import pytest

from ichat.config.document import parse
from ichat.errors import ConfigError, ExitCode

MODEL = "models: {m: {model_path: org/m}}\n"


def test_all_problems_are_told_in_one_run_in_the_order_of_typing(lines):
    yaml = "server: {prot: 1}\nmodels:\n  m:\n    model_path: org/m\n    tensor_paralel_size: 2\n    seed: x\n"
    found = lines("--prot=1", env={"ICHAT_PROT": "1", "ICHAT_SERVER__PORT": "x"}, yaml=yaml)
    assert found[0].startswith("--prot: ")
    assert found[-3:] == [
        "configs.yaml:1:10 server.prot: unknown key; did you mean 'port'?",
        "configs.yaml:5:5 models.m.tensor_paralel_size: unknown key; did you mean 'tensor_parallel_size'?",
        "configs.yaml:6:11 models.m.seed: expected a whole number, found `x`.",
    ]
    assert len(found) == 6


@pytest.mark.parametrize(
    ("yaml", "expected"),
    [
        ("a:\n\t- b", "configs.yaml:2:1 found character that cannot start any token"),
        ("server: {port: 1}\nserver: {port: 2}", "configs.yaml:2:1 server: stands here again; first in line 1"),
        ("models:\n  m: {model_path: a/b, seed: 1,\n    seed: 2}", "configs.yaml:3:5 seed: stands here again"),
        ('server: {host: "x}', "configs.yaml:1:19 found unexpected end of stream"),
        ("a: &x [1]\nb: *x", "configs.yaml:1:4 anchors and aliases (&x) are not read"),
        ("\ufeffserver: {}", "configs.yaml:1:1 begins with a byte-order mark"),
        ("a: !!python/object:os.system x", "configs.yaml:1:4 tags"),
        ("a: 1\n---\nb: 1", "configs.yaml:2:1 a second document"),
        ("[" * 40, "configs.yaml:1:34 nested more than 32 levels"),
        ("? [a]\n: b", "configs.yaml:1:3 a key must be a word"),
        ("- a", "configs.yaml:1:1 expected a mapping"),
        (b"a: \xff", "configs.yaml:1:4 byte 0xff is not UTF-8"),
        (b"a: \x01", "configs.yaml:1:1 character"),
        (b"\xff\xfea\x00", "configs.yaml:1:1 begins with a byte-order mark"),
        (b"#" * (1024 * 1024 + 1), "configs.yaml: 1048577 bytes; a configuration has at most 1 MiB"),
    ],
)
def test_a_file_of_the_wrong_form_is_refused_with_its_place(lines, yaml, expected):
    assert any(line.startswith(expected) for line in lines("--model-path=org/m", yaml=yaml))


def test_a_bomb_of_anchors_costs_neither_time_nor_memory():
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))
    tracemalloc.start()
    began = time.perf_counter()
    document = parse("bomb.yaml", bomb.encode())
    assert time.perf_counter() - began < 0.2
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
    assert document.root is None
    assert len(document.problems) == 1


@pytest.mark.parametrize(
    ("key", "literal", "expected"),
    [
        (
            "server: {port: %s}",
            '"8000x"',
            'server.port: expected a whole number from 0 to 65535, found the text "8000x".',
        ),
        ("server: {port: %s}", '"8000"', 'found the text "8000"; remove the quotes.'),
        ("server: {port: %s}", "on", "expected a whole number from 0 to 65535, found `on`."),
        ("server: {port: %s}", "1e3", "found `1e3`."),
        ("server: {port: %s}", "0o17", "found `0o17`."),
        ("server: {port: %s}", "017", "found `017`."),
        ("server: {port: %s}", "22:22", "found `22:22`."),
        ("server: {port: %s}", "1_000", "found `1_000`."),
        ("server: {port: %s}", "null", "found `null`."),
        ("server: {port: %s}", "true", "found `true`."),
        ("server: {port: %s}", "1.0", "found `1.0`."),
        ("server: {port: %s}", "65536", "found `65536`."),
        ("server: {port: %s}", "[1]", "found a list."),
        ("server: {port: %s}", "{a: 1}", "found a mapping."),
        ("server: {port: %s}", "", "found nothing."),
        ("restarts: {enabled: %s}", "no", "expected true or false, found `no`; write true or false."),
        ("restarts: {enabled: %s}", "1", "expected true or false, found `1`."),
        ("restarts: {enabled: %s}", '"true"', 'found the text "true"'),
        ("server: {host: %s}", "no", "expected text, found `no`; put it in quotes if that is the text."),
        ("server: {host: %s}", "1.5", "expected text, found `1.5`; put it in quotes"),
        ("server: {log_format: %s}", "jsn", "expected text or json, found `jsn`."),
        ("timeouts: {stop_s: %s}", "0", "expected a number of seconds above 0, found `0`."),
        ("timeouts: {stop_s: %s}", ".inf", "expected a number of seconds above 0, found `.inf`."),
        ("defaults: {memory_fraction: %s}", "1.1", "expected a number above 0, at most 1, found `1.1`."),
        ("defaults: {env: {A: %s}}", "yes", "A: expected text, found `yes`; put it in quotes."),
        ("defaults: {engine_args: {enforce-eager: %s}}", "off", "`off` means different things"),
        (
            "defaults: {engine_args: {enforce-eager: %s}}",
            "1",
            "vLLM's --enforce-eager expected true or false, found 1.",
        ),
        (
            "defaults: {engine_args: {block-size: %s}}",
            "big",
            "vLLM's --block-size expected a whole number, found 'big'.",
        ),
        ("defaults: {engine_args: {block-size: %s}}", "false", "--block-size takes a value, not false."),
        ("defaults: {engine_args: {runner: %s}}", "poling", "expected one of auto, draft, generate, pooling"),
        ("defaults: {engine_args: %s}", "[a]", "defaults.engine_args: expected a mapping, found a list."),
        ("defaults: {extra_argv: %s}", "[1]", "expected a list of texts, found 1 in it"),
        (
            "defaults: {env: %s}",
            '{"A=B": c}',
            'env: expected names of variables, not empty and without "=", found "A=…"',
        ),
        ("defaults: {env: %s}", '{"": c}', 'not empty and without "=", found "".'),
        ("defaults: {env: {A: %s}}", r'"c\0d"', "env: has the control character U+0000. Remove it."),
        ("defaults: {env: %s}", r'{"A\0": c}', "env: has the control character U+0000. Remove it."),
        ("server: {run_dir: %s}", r'"/a\0b"', "server.run_dir: has the control character U+0000. Remove it."),
        ("server: {host: %s}", r'"\x7f"', "server.host: has the control character U+007F. Remove it."),
        ("server: {api_key: %s}", r'"a\nb"', "server.api_key: has more than one line; it must hold the secret"),
        ("defaults: {tokenizer_path: %s}", r'"/a\0"', "tokenizer_path: has the control character U+0000. Remove it."),
        ("defaults: {lora_paths: %s}", r'["a=/x\0"]', "lora_paths: has the control character U+0000. Remove it."),
        (
            "defaults: {kv_events_config: %s}",
            r'{a: ["\e"]}',
            "kv_events_config: has the control character U+001B. Remove it.",
        ),
        ("defaults: {engine_args: {generation-config: %s}}", r'"\0"', "generation-config: has the control character"),
        ("defaults: {extra_argv: %s}", r'[--generation-config, "\0"]', "has the control character U+0000"),
        ("defaults: {seed: %s}", "9" * 5000, "expected a whole number, found `9999"),
        ("timeouts: {stop_s: %s}", "1.0e999", "expected a number of seconds above 0, found `1.0e999`."),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_with_its_literal(lines, key, literal, expected):
    found = lines(yaml=MODEL + key % literal)
    assert len(found) == 1
    assert expected in found[0]
    assert found[0].startswith("configs.yaml:2:")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--max-model-le", "5"], "vLLM 0.32.0 has no flag --max-model-le; did you mean --max-model-len?"),
        (["--mem-fraction-static", ".5"], "it is SGLang's word for what both engines understand as --memory-fraction"),
        (["--disable-cuda-graph"], "it is a flag of SGLang 0.5.21; vLLM has --enforce-eager."),
        (["--zzzzzz"], "vLLM 0.32.0 has no flag --zzzzzz; nothing is called like it."),
        (["--enforce-eager=true"], "--enforce-eager takes no value"),
        (
            ["--enforce-eager", "true"],
            'the word "true" belongs to no flag. A flag that is true or false takes no value',
        ),
        (["some/model"], 'the word "some/model" belongs to no flag. A model is named with --model-path'),
        (["--block-size"], "--block-size needs a value"),
        (["--block-size", "x"], "expected a whole number, found 'x'"),
        (["--uds", "/x"], "--uds is not for use here: ichat serves the engine on a socket of its own"),
        (["--port", "1", "--port", "2"], '--port: is given twice, as "1" and as "2".'),
        (["--context-length", "1", "--max-model-len", "2"], "says context_length again, with another value than"),
        (
            ["--block-size", "1", "--block-size", "2"],
            "given twice with different values: --block-size 1 and --block-size 2",
        ),
        (["--config"], "--config: needs the path of a YAML file."),
        (["--seed"], "--seed: needs a value"),
        (["--trust-remote-code=maybe"], 'expected true or false, found "maybe"'),
        (["--quantization", "awk", "--backend", "sglang"], "SGLang: expected one of awq"),
        (["--backend", "vlm"], 'expected vllm or sglang, found "vlm"'),
    ],
)
def test_a_wrong_command_line_ends_with_usage(refuse, argv, expected):
    problems = refuse("--model-path", "org/m", *argv)
    assert len(problems) == 1
    assert expected in f"{problems[0].place} {problems[0].message}"
    assert ConfigError(problems).exit_code == ExitCode.USAGE


def test_the_same_flag_is_78_in_a_file_and_in_the_environment(refuse):
    problems = refuse(
        yaml=MODEL + "defaults: {engine_args: {max-model-le: 5, disable-cuda-graph: true, context_length: 5}}"
    )
    assert ConfigError(problems).exit_code == ExitCode.CONFIG
    assert "did you mean max-model-len?" in problems[0].message
    assert "vLLM has --enforce-eager" in problems[1].message
    assert "write it beside engine_args" in problems[2].message
    problems = refuse("--model-path=org/m", env={"ICHAT_VLLM_ARGS": "--max-model-le 5"})
    assert ConfigError(problems).exit_code == ExitCode.CONFIG
    assert problems[0].place == "ICHAT_VLLM_ARGS:"


def test_a_switch_that_cannot_be_switched_off_says_so(lines):
    found = lines(yaml="models: {m: {backend: sglang, model_path: org/m, engine_args: {enable-multimodal: false}}}")
    assert "cannot be set to false" in found[0]


def test_the_same_thing_said_twice_names_both_places(lines):
    yaml = "models:\n  m:\n    model_path: org/m\n    context_length: 5\n    engine_args: {max-model-len: 6}\n"
    assert lines(yaml=yaml) == [
        "configs.yaml:5:34 models.m.engine_args.max-model-len: says context_length again, with another value than "
        + lines(yaml=yaml)[0].split("another value than ")[1]
    ]
    assert "configs.yaml:4:21" in lines(yaml=yaml)[0]
    yaml = "models: {m: {model_path: org/m, engine_args: {block-size: 1}, extra_argv: [--block-size, '2']}}"
    assert "Give it once" in lines(yaml=yaml)[0]


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"ICHAT_API_KEY": "a", "ICHAT_API_KEY_FILE": "/x"}, "ICHAT_API_KEY: is set, and ICHAT_API_KEY_FILE too."),
        ({"ICHAT_API_KEY_FILE": "/does/not/exist"}, "ICHAT_API_KEY_FILE: /does/not/exist: no such file."),
        ({"ICHAT_API_KEY_FILE": "/"}, "ICHAT_API_KEY_FILE: /: is a directory, not a file."),
        ({"HF_TOKEN_FILE": "/dev/null"}, "HF_TOKEN_FILE: /dev/null: is empty"),
        ({"ICHAT_API_KEY": ""}, "ICHAT_API_KEY: is empty, which would leave the port open"),
        ({"ICHAT_CONTEXT_LENGHT": "5"}, "ICHAT_CONTEXT_LENGHT: unknown variable; did you mean ICHAT_CONTEXT_LENGTH?"),
        ({"ICHAT_TIMEOUTS__LINGER_S": "soon"}, 'expected a number of seconds of at least 0, found "soon".'),
        ({"ICHAT_MODELS__X__SEED": "1"}, "the configuration file has no models; there is no X."),
        ({"ICHAT_VLLM_ARGS": '"'}, "ICHAT_VLLM_ARGS: cannot be cut into words"),
        ({"ICHAT_API_KEY": "a\nb"}, "ICHAT_API_KEY: has more than one line; it must hold the secret and no more."),
        ({"ICHAT_SERVER__API_KEY": "a\r"}, "ICHAT_SERVER__API_KEY: has the control character U+000D;"),
        ({"HF_TOKEN": "a\nb"}, "HF_TOKEN: has more than one line"),
        ({"ICHAT_PORT": "9" * 5000}, "ICHAT_PORT: expected a whole number from 0 to 65535, found"),
        ({"ICHAT_TIMEOUTS__STOP_S": "9" * 400}, "ICHAT_TIMEOUTS__STOP_S: expected a number of seconds above 0, found"),
        ({"ICHAT_DEFAULTS__ENGINE_ARGS": '{"a": ' + "[" * 100_000}, "expected a mapping, found text that is no JSON"),
        ({"ICHAT_DEFAULTS__ENV": '{"A=B": "c"}'}, 'not empty and without "="'),
        ({"ICHAT_DEFAULTS__ENV": r'{"A": "\u0000"}'}, "has the control character U+0000"),
        ({"ICHAT_RUN_DIR": "/\udcff"}, "ICHAT_RUN_DIR: has bytes that are not UTF-8."),
        ({"ICHAT_VLLM_ARGS": "--generation-config=\udcff"}, "--generation-config has bytes that are not UTF-8."),
        ({"ICHAT_CONFIG": "/does/not/exist.yaml"}, "/does/not/exist.yaml: no such file."),
    ],
)
def test_a_wrong_environment_names_the_variable(lines, env, expected):
    assert any(expected in line for line in lines("--model-path=org/m", env=env))


@pytest.mark.parametrize("content", ["a\0b", "a\x1bb\n", "a\rb"])
def test_a_control_character_in_the_file_of_a_secret_is_refused(lines, scratch, content):
    path = scratch / "secret"
    path.write_bytes(content.encode())
    (line,) = lines("--model-path=org/m", env={"HF_TOKEN_FILE": str(path)})
    assert "has the control character" in line
    assert "it must hold the secret and no more" in line


def test_a_template_may_have_lines_and_tabs(configure):
    assert (
        configure(yaml='models: {m: {model_path: org/m, chat_template: "{{\\n\\t}}"}}').settings.models[0].chat_template
        == "{{\n\t}}"
    )


def test_a_fall_back_for_the_path_is_checked_as_the_path_is(lines):
    assert lines(env={"MODEL_ID": "org/\udcff"}) == ["MODEL_ID: has bytes that are not UTF-8. Remove it."]


def test_service_links_of_kubernetes_are_explained(lines, configure):
    links = {"ICHAT_SERVICE_HOST": "10.0.0.1", "ICHAT_PORT_8000_TCP_ADDR": "10.0.0.1", "ICHAT_SERVICE_PORT_HTTP": "80"}
    (line,) = lines("--model-path=org/m", env=links | {"ICHAT_PORT": "tcp://10.0.0.1:8000"})
    assert line.startswith('ICHAT_PORT: "tcp://10.0.0.1:8000" was put here by Kubernetes')
    assert "enableServiceLinks: false" in line
    others = {
        "ICHAT_QWEN_SERVICE_HOST": "10.0.0.1",
        "ICHAT_QWEN_PORT": "tcp://10.0.0.1:80",
        "ICHAT_QWEN_PORT_80_TCP": "x",
    }
    (notice,) = configure("--model-path=org/m", env=others).notices
    assert "Kubernetes" in notice


def test_a_secret_is_in_no_error(lines, scratch):
    canary = "canary-9f3a"
    (scratch / "many").write_text(f"{canary}\n{canary}\n")
    env = {"ICHAT_API_KEY_FILE": str(scratch / "many")}
    assert canary not in " ".join(lines("--model-path=org/m", env=env))
    assert canary not in " ".join(lines("--model-path=org/m", f"--api-key={canary}1", f"--api-key={canary}2"))
    assert canary not in " ".join(lines(yaml=MODEL + f"server: {{api_key: [{canary}]}}"))
    assert canary not in " ".join(lines("--model-path=org/m", "--hf-token", canary, "--hf-token", f"{canary}1"))
    for name in ("ICHAT_API_KEY", "ICHAT_SERVER__API_KEY", "HF_TOKEN"):
        assert canary not in " ".join(lines("--model-path=org/m", env={name: f"{canary}\n{canary}"}))
    for text in ('{"HF_TOKEN": "%s"', '{"HF_TOKEN": "%s", "B": 5}', '{"HF_TOKEN=%s": ""}'):
        assert canary not in " ".join(lines("--model-path=org/m", env={"ICHAT_DEFAULTS__ENV": text % canary}))


@pytest.mark.parametrize(
    "settings",
    [
        "env: {MY_TOKEN: 47_11}",
        "env: {MY_TOKEN: 4711}, seed: x",
        "engine_args: {hf-overrides: {api_key: 47_11}}",
        "engine_args: {enforce-eager: {api_key: 47_11x}}",
        "engine_args: {block-size: {api_key: 47_11x}}",
        "engine_args: {runner: {api_key: 47_11x}}",
    ],
)
def test_a_secret_deep_in_a_file_is_in_no_error(lines, settings):
    found = " ".join(lines(yaml=f"models: {{m: {{model_path: org/m, {settings}}}}}"))
    assert "47_11" not in found
    assert "4711" not in found


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("enable_lora: false, lora_paths: [a=/x]", "is false, but lora_paths names adapters"),
        ("lora_paths: [adapter]", "each adapter is written name=path"),
        ("nnodes: 2, node_rank: 2", "is 2, and ichat serves the first machine of several only (0). Start"),
        ("nnodes: 2, node_rank: 1, backend: sglang", "is 1, and ichat serves the first machine"),
        ("node_rank: 1", "is 1, and ichat serves the first machine"),
        ("dist_init_addr: host", "expected host:port"),
        ("instances: 2, kv_events_config: {endpoint: 'tcp://*:5557'}", "only one of them can listen there"),
        ("backend: sglang, served_model_name: 'a:b'", "has a colon"),
        ("max_lora_rank: 7", "expected one of 1, 8, 16"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(lines, settings, expected):
    (line,) = lines(yaml=f"models: {{m: {{model_path: org/m, {settings}}}}}")
    assert expected in line


def test_a_wrong_configuration_is_refused_quickly_and_without_an_engine():
    code = (
        "import sys; from ichat.config.sources import Sources; from ichat.config.resolve import resolve\n"
        "from ichat.backends.engines import load_engines\n"
        "from ichat.errors import ConfigError\n"
        "try: resolve(Sources.read(['--prot', '1'], {}), load_engines())\n"
        "except ConfigError: pass\n"
        "heavy = {'torch', 'vllm', 'sglang', 'transformers', 'yaml', 'aiohttp', 'uvicorn', 'ssl'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    before = os.times()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    after = os.times()
    assert done.returncode == 0, done.stderr
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    assert spent < 0.3
