"""Configuration as people write it, who come from a shell, from Kubernetes, or from the engines' own images."""

import os
import subprocess
from pathlib import Path

import pytest

from ichat.backends.engines import load_engines
from ichat.config.first_words import as_ichat
from ichat.config.names import own_flags
from ichat.errors import UsageError

ROOT = Path(__file__).parents[3]
ENGINES = load_engines()
FLAGS = ROOT / "ichat" / "backends" / "flags"


def cut_at_dashes() -> list[str]:
    """Every beginning of ichat's own words that ends before a dash, and the words themselves."""
    found = []
    for flag in own_flags():
        parts = flag.word.removeprefix("--").split("-")
        found += ["--" + "-".join(parts[:end]) for end in range(1, len(parts) + 1)]
    return sorted(set(found))


@pytest.mark.parametrize("backend", ["vllm", "sglang"])
def test_a_word_of_ichat_cut_at_a_dash_is_that_word_or_told(backend, configure, refuse):
    for word in cut_at_dashes():
        try:
            configure("--backend", backend, "--model-path=org/m", word, "2")
        except Exception:  # noqa: BLE001  what else it may be, `refuse` tells apart
            assert refuse("--backend", backend, "--model-path=org/m", word, "2")


def test_a_cut_word_is_the_setting_and_keeps_its_place(configure, lines):
    resolved = configure("--model-path=org/m", "--tensor-parallel", "2", "--served-model", "x")
    model = resolved.settings.models[0]
    assert (model.tensor_parallel_size, model.served_model_name) == (2, "x")
    assert lines("--model-path=org/m", "--tensor-parallel", "x") == [
        '--tensor-parallel: expected a whole number above 0, found "x".'
    ]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('"demo"', "the quotes are part of the value"),
        ("'org/m'", "the quotes are part of the value"),
        ("demo ", "begins or ends with a blank"),
        ("demo\r", "begins or ends with a blank"),
        ("a b", "is neither a directory here nor a Hugging Face repository"),
        ("-", "is neither a directory here nor a Hugging Face repository"),
        ("https://huggingface.co/org/m/tree/main", "you probably mean org/m"),
        ("http://x", "a model of the hub is named as ORG/NAME."),
    ],
)
def test_a_path_that_is_none_is_told_with_its_place(text, why, refuse):
    for place, problems in {
        "--model-path:": refuse("--model-path", text),
        "ICHAT_MODEL_PATH:": refuse(env={"ICHAT_MODEL_PATH": text}),
    }.items():
        assert [(p.code, p.place) for p in problems] == [("E-CFG-VALUE", place)]
        assert why in problems[0].message


@pytest.mark.parametrize("text", ['"sk"', "'sk'", " sk", "sk\t"])
@pytest.mark.parametrize("name", ["ICHAT_API_KEY", "ICHAT_ADMIN_TOKEN", "HF_TOKEN"])
def test_quotes_and_blanks_around_a_secret_are_told_and_the_secret_is_not(name, text, refuse):
    (problem,) = refuse(env={name: text})
    assert (problem.code, problem.place) == ("E-CFG-SECRET", f"{name}:")
    assert "sk" not in problem.message


def test_a_template_may_be_surrounded_by_what_it_likes(configure):
    template = "'{{ messages }}' "
    assert configure("--model-path=org/m", "--chat-template", template).settings.models[0].chat_template == template


@pytest.mark.parametrize("service", ["ICHAT", "ICHAT_API", "ICHAT_GATEWAY_EU"])
def test_all_variables_that_kubernetes_makes_of_a_service_are_passed_over(service, configure, refuse):
    env = {
        f"{service}_SERVICE_HOST": "10.0.0.1",
        f"{service}_SERVICE_PORT": "80",
        f"{service}_SERVICE_PORT_HTTP": "80",
        f"{service}_PORT": "tcp://10.0.0.1:80",
        f"{service}_PORT_80_TCP": "tcp://10.0.0.1:80",
        f"{service}_PORT_80_TCP_PROTO": "tcp",
        f"{service}_PORT_80_TCP_PORT": "80",
        f"{service}_PORT_80_TCP_ADDR": "10.0.0.1",
    }
    if service == "ICHAT":  # there ICHAT_PORT is the public port
        (problem,) = refuse("--model-path=org/m", env=env)
        assert (problem.code, problem.place) == ("E-CFG-SERVICE-LINK", "ICHAT_PORT:")
    else:
        resolved = configure("--model-path=org/m", env=env)
        assert sum("put here by Kubernetes" in notice for notice in resolved.notices) == 1


def test_variables_that_would_do_in_an_engine_what_is_ichats_are_refused(refuse, configure):
    for backend, name in (("vllm", "VLLM_API_KEY"), ("sglang", "SGLANG_GRPC_PORT")):
        (problem,) = refuse("--model-path=org/m", "--backend", backend, env={name: "7"})
        assert (problem.code, problem.place) == ("E-CFG-RESERVED", f"{name}:")
        other = "sglang" if backend == "vllm" else "vllm"
        configure("--model-path=org/m", "--backend", other, env={name: "7"})
        (problem,) = refuse(yaml=f"models: {{m: {{model_path: a/b, backend: {backend}, env: {{{name}: '7'}}}}}}")
        assert problem.place == f"models.m.env.{name}:"


def test_a_worker_sees_no_empty_variable_of_an_engine_and_no_service_link(configure):
    env = {
        "VLLM_USE_TRITON_AWQ": "",
        "SGLANG_PORT": "tcp://10.0.0.1:80",
        "VLLM_PORT": "tcp://10.0.0.1:80",
        "NCCL_DEBUG": "INFO",
        "CUDA_VISIBLE_DEVICES": "",
        "MY_OWN": "",
    }
    seen = configure("--model-path=org/m", env=env).sources.worker_environment()
    assert seen == {"NCCL_DEBUG": "INFO", "CUDA_VISIBLE_DEVICES": "", "MY_OWN": ""}


def test_variables_of_other_images_are_told_where_nothing_names_a_model(configure):
    env = {"MODEL": "org/m", "PORT": "80"}
    (notice,) = [n for n in configure(env=env).notices if "not read by ichat" in n]
    assert notice.startswith("MODEL, PORT: ")
    for argv, more in ((("--model-path=demo",), {}), ((), {"ICHAT_MODEL_PATH": "org/m"}), ((), {"MODEL_ID": "org/m"})):
        assert not [n for n in configure(*argv, env=env | more).notices if "not read by ichat" in n]
    assert not [n for n in configure(env=env, yaml="models: {demo: {}}").notices if "not read by ichat" in n]


def test_port_and_host_at_the_top_of_a_file_belong_to_the_server(lines):
    assert lines(yaml="port: 80\nhost: x\n") == [
        "configs.yaml:1:1 port: unknown key; did you mean server.port?",
        "configs.yaml:2:1 host: unknown key; did you mean server.host?",
    ]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("vllm serve org/m --seed 1", "serve --backend vllm --model-path org/m --seed 1"),
        ("vllm serve --model org/m", "serve --backend vllm --model org/m"),
        ("sglang serve --model-path org/m", "serve --backend sglang --model-path org/m"),
        ("python3 -m sglang.launch_server --tp 2", "serve --backend sglang --tp 2"),
        ("python -m vllm.entrypoints.openai.api_server --port 1", "serve --backend vllm --port 1"),
        ("org/m --seed 1", "serve --model-path org/m --seed 1"),
        ("serve org/m", "serve --model-path org/m"),
        ("config org/m", "config --model-path org/m"),
        ("serve --seed 1", "serve --seed 1"),
        ("explain qwen", "explain qwen"),
        ("--seed 1", "--seed 1"),
        ("status", "status"),
        ("", ""),
    ],
)
def test_commands_of_the_engines_images_are_ichats(typed, meant):
    assert as_ichat(typed.split()) == meant.split()


@pytest.mark.parametrize("typed", ["vllm", "vllm bench serve", "sglang generate"])
def test_other_commands_of_the_engines_are_told(typed):
    with pytest.raises(UsageError, match="ichat serves, and has no other command"):
        as_ichat(typed.split())


@pytest.mark.parametrize("argv", ["vllm serve a/b", "a/b", "sglang serve", "python3 -m sglang.launch_server"])
def test_the_entrypoint_leaves_the_commands_of_engines_to_ichat(argv):
    enter = [str(ROOT / "entrypoint"), *argv.split(), "--nothing-like-it", "1"]
    done = subprocess.run(enter, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 64
    assert "has no flag --nothing-like-it" in done.stderr


def test_files_of_the_working_directory_are_not_imported(tmp_path):
    for name in ("tokenize", "yaml", "socket"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the working directory')")
    enter = [str(ROOT / "entrypoint"), "config"]
    environ = {name: text for name, text in os.environ.items() if not name.startswith("ICHAT_")}
    done = subprocess.run(enter, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("backend", ["vllm", "sglang"])
def test_a_flag_that_is_gone_is_told_with_what_replaces_it(backend, refuse):
    engine = ENGINES[backend]
    versions = [path.stem.removeprefix(f"{backend}-") for path in FLAGS.glob(f"{backend}-*.json")]
    assert versions
    for version in [None, *versions]:
        catalogue = load_engines({backend: version})[backend].catalogue
        for advice in engine.gone.values():
            named = [word.strip("'") for word in advice.split() if word.startswith("--")]
            assert all(catalogue.find(word.rstrip(",:")) for word in named), advice
    for flag, advice in engine.gone.items():
        (problem,) = refuse("--model-path=org/m", "--backend", backend, flag)
        assert problem.message == f"{engine.version} has no flag {flag}; {advice}."


def test_a_hint_is_never_the_opposite(refuse):
    for backend in ("vllm", "sglang"):
        for flag in ENGINES[backend].catalogue.flags:
            if flag.word.startswith("--enable-"):
                opposite = flag.word.replace("--enable-", "--disable-")
            elif flag.word.startswith("--disable-"):
                opposite = flag.word.replace("--disable-", "--enable-")
            else:
                continue
            if ENGINES[backend].catalogue.find(opposite) or opposite in ENGINES[backend].gone:
                continue
            (problem,) = refuse("--model-path=org/m", "--backend", backend, opposite)
            assert f"did you mean {flag.word}?" not in problem.message


def test_several_names_in_one_flag_are_the_name_and_its_aliases(configure, lines):
    for backend in ("vllm", "sglang"):
        model = configure(
            "--backend", backend, "--model-path=a/b", "--served-model-name", "/m/x", "千问", "z"
        ).settings.models[0]
        assert (model.served_model_name, model.aliases) == ("/m/x", ("千问", "z"))
    assert lines("--model-path=a/b", "--api-key", "a", "b") == [
        "--api-key: takes one key. Give further ones with a name each: server.api_keys in the configuration file."
    ]


@pytest.mark.parametrize("name", ["/models/x", "千问", "a|b", "*x"])
def test_clients_may_ask_for_any_name_without_blanks(name, configure):
    assert configure("--model-path=a/b", "--served-model-name", name).settings.models[0].served_name == name


@pytest.mark.parametrize("adapter", ["{name: x, path: /p}", '\'{"name": "x", "path": "/p"}\'', "x=/p"])
def test_adapters_are_taken_in_each_form(adapter, configure):
    resolved = configure(yaml=f"models: {{m: {{model_path: a/b, lora_paths: [{adapter}]}}}}")
    assert resolved.settings.models[0].lora_paths == ("x=/p",)
    json_text = configure("--model-path=a/b", "--lora-modules", '{"name": "x", "path": "/p"}', "y=/q")
    assert json_text.settings.models[0].lora_paths == ("x=/p", "y=/q")


@pytest.mark.parametrize(
    ("entry", "found"),
    [("{name: x}", "no text"), ("{name: x, path: /p, base_model_name: llama}", "no text"), ("3", "3")],
)
def test_the_wrong_entry_of_a_list_is_told(entry, found, lines):
    (line,) = lines(yaml=f"models: {{m: {{model_path: a/b, lora_paths: [x=/p, {entry}]}}}}")
    assert f"lora_paths: entry 2 of the list does not fit: found {found}, expected adapters to load" in line


@pytest.mark.parametrize("backend", ["vllm", "sglang"])
def test_quotes_around_a_value_in_the_engines_own_words_are_told(backend, refuse):
    word = "--model" if backend == "vllm" else "--model-path"
    for text in ('"demo"', "'org/m'", " org/m"):
        (problem,) = refuse("--backend", backend, word, text)
        assert problem.place == f"{word}:"
