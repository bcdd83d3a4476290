"""What holds for every key, every flag and every command line."""

import contextlib
import json
import string

import pytest
import yaml as pyyaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ichat.backends.engines import ARGS, load_engines
from ichat.config.command_line import split
from ichat.config.kinds import kinds
from ichat.config.names import sections, variables
from ichat.config.nearest import slips
from ichat.config.report import render_config
from ichat.config.schema import Model, ModelSettings
from ichat.errors import ConfigError

ENGINES = load_engines()
FEW = settings(max_examples=80, deadline=None, derandomize=True)

KEYS = [(path, key) for path, section in sections().items() for key in section.model_fields]
KEYS += [(("defaults",), key) for key in ModelSettings.model_fields]
KEYS += [(("models", "m"), key) for key in ModelSettings.model_fields]


@st.composite
def slip(draw: st.DrawFn, word: str, alphabet: str) -> str:
    """A word with one slip of the finger in it."""
    at = draw(st.integers(0, len(word) - 1))
    letter = draw(st.sampled_from(alphabet))
    kind = draw(st.sampled_from(["drop", "add", "replace", "swap"]))
    if kind == "swap" and at + 1 < len(word):
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return {"drop": word[:at] + word[at + 1 :], "add": word[:at] + letter + word[at:]}.get(
        kind, word[:at] + letter + word[at + 1 :]
    )


@pytest.mark.parametrize(("path", "key"), KEYS, ids=lambda v: v if isinstance(v, str) else ".".join(v))
def test_a_mistyped_key_is_refused_with_the_right_one(path, key, refuse):
    @settings(max_examples=5, deadline=None, derandomize=True)
    @given(slip(key, string.ascii_lowercase + "_"))
    def check(wrong: str) -> None:
        known = [k for p, k in KEYS if p == path]
        if wrong in known or not wrong:
            return
        text = wrong + ": 1"
        for name in reversed(path):
            text = f"{name}: {{{text}}}"
        problems = refuse("--model-path=org/m", yaml=text)
        (problem,) = [p for p in problems if p.code == "E-CFG-UNKNOWN-KEY"]
        suggested = problem.message.rpartition("did you mean '")[2].partition("'")[0]
        assert suggested in known
        assert slips(wrong, suggested) == 1

    check()


@FEW
@given(data=st.data())
def test_a_mistyped_variable_is_refused_with_the_right_one(refuse, data):
    name = data.draw(st.sampled_from(sorted(variables())))
    wrong = "ICHAT_" + data.draw(slip(name.removeprefix("ICHAT_"), string.ascii_uppercase + "_"))
    if wrong in variables() or "SERVICE" in wrong or wrong.startswith("ICHAT_MODELS__"):
        return
    problems = refuse("--model-path=org/m", env={wrong: "1"})
    (problem,) = [p for p in problems if p.code == "E-CFG-UNKNOWN-VARIABLE"]
    suggested = problem.message.rpartition("did you mean ")[2].removesuffix("?")
    assert slips(wrong, suggested) == 1


@FEW
@given(data=st.data())
def test_a_mistyped_flag_is_refused_with_the_right_one(refuse, data):
    backend = data.draw(st.sampled_from(["vllm", "sglang"]))
    catalogue = ENGINES[backend].catalogue
    flag = data.draw(st.sampled_from(catalogue.flags))
    wrong = "--" + data.draw(slip(flag.key, string.ascii_lowercase + "-"))
    if any(find(wrong) for find in (catalogue.find, lambda w: next((a.flag for a in split([w], None)), None))):
        return
    if wrong == "--" or wrong.startswith("---"):
        return
    problems = refuse("--model-path=org/m", "--backend", backend, wrong)
    (problem,) = [p for p in problems if p.code == "E-CFG-UNKNOWN-FLAG"]
    assert "did you mean " in problem.message
    assert slips(wrong, problem.message.rpartition("did you mean ")[2].removesuffix("?")) == 1


BOOLEANS = [name for name, kind in kinds(ModelSettings).items() if kind.word == "bool"]


@FEW
@given(
    values=st.fixed_dictionaries({}, optional={name: st.booleans() for name in BOOLEANS}),
    source=st.sampled_from(["yaml", "env", "argv"]),
)
def test_booleans_come_back_as_they_were_given(configure, values, source):
    if source == "yaml":
        resolved = configure(yaml=json.dumps({"models": {"m": {"model_path": "org/m"} | values}}))
    elif source == "env":
        env = {f"ICHAT_{name.upper()}": str(value).lower() for name, value in values.items()}
        resolved = configure("--model-path=org/m", env=env)
    else:
        words = [f"--{'' if value else 'no-'}{name.replace('_', '-')}" for name, value in values.items()]
        resolved = configure("--model-path=org/m", *words)
    assert {name: getattr(resolved.settings.models[0], name) for name in values} == values
    assert all(getattr(resolved.settings.models[0], name) is None for name in BOOLEANS if name not in values)


@FEW
@given(data=st.data())
def test_every_yes_or_no_flag_of_an_engine_reaches_it_or_is_refused(data):
    backend = data.draw(st.sampled_from(["vllm", "sglang"]))
    catalogue = ENGINES[backend].catalogue
    flags = [f for f in catalogue.flags if f.kind in {"toggle", "switch"}]
    chosen = data.draw(
        st.lists(st.tuples(st.sampled_from(flags), st.booleans()), unique_by=lambda c: c[0].dest, max_size=6)
    )
    args = {flag.key: value for flag, value in chosen if value or flag.kind == "toggle" or flag.default is False}
    argv = ARGS[backend].to_argv(
        Model(name="m", model_path="a/b", backend=backend, engine_args=args), accelerator="cpu"
    )
    said = {a.flag.dest: not a.is_negated for a in catalogue.split(argv) if a.flag and a.flag in flags}
    for key, value in args.items():
        flag = catalogue.find(f"--{key}")
        assert said.get(flag.dest, False if flag.kind == "switch" else None) == value


TOKENS = st.one_of(
    st.sampled_from([s for e in ENGINES.values() for f in e.catalogue.flags for s in f.spellings]),
    st.sampled_from(
        ["--port", "--port=1", "--backend=vllm", "-O3", "-1", "-", "--", "a", "1", "--x.y", "--seed", "=", "--=", "{}"]
    ),
    st.text(alphabet="-=.ab1 ", max_size=6),
)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.lists(TOKENS, max_size=12), st.sampled_from([None, *ENGINES.values()]))
def test_no_token_is_lost_or_moved(tokens, engine):
    arguments = list(split(tokens, engine))
    assert [token for argument in arguments for token in argument.tokens] == tokens


@FEW
@given(text=st.text(max_size=80) | st.binary(max_size=80).map(lambda b: b.decode("latin-1")))
def test_no_text_whatever_breaks_the_reader_of_files(configure, text):
    with contextlib.suppress(ConfigError):  # anything else is a bug
        configure("--model-path=org/m", yaml=text.encode("utf-8", "surrogatepass"))


def test_what_config_prints_is_a_configuration_that_gives_the_same(configure):
    yaml = """
server: {port: 81, host: "::1"}
timeouts: {linger_s: 0.5}
models:
  org/m:
    model_path: org/x
    backend: sglang
    enable_prefix_caching: false
    memory_fraction: 0.8
    lora_paths: [a=b/c]
    kv_events_config: {publisher: zmq, endpoint: "tcp://*:5"}
    engine_args: {disable-cuda-graph: true, cuda-graph-bs-decode: [1, 2], random-seed: 5}
    vllm_args: {enforce-eager: false}
    env: {A: "1", B: "yes"}
"""
    first = configure(yaml=yaml)
    printed = render_config(first)
    assert pyyaml.safe_load(printed)["server"]["port"] == 81
    assert configure(yaml=printed).settings == first.settings
