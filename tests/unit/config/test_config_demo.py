"""The embedded demo model: what is served when nothing names a model."""

from collections.abc import Mapping

import pytest

from ichat.backends.engines import load_engines
from ichat.config.resolve import Resolved, resolve
from ichat.config.sources import Sources
from ichat.errors import ConfigError


class WithDemo(Sources):
    def demo_path(self) -> str | None:
        return "/opt/models/demo"


class WithoutDemo(Sources):
    def demo_path(self) -> str | None:
        return None


def demo(*argv: str, env: Mapping[str, str] | None = None, kind: type[Sources] = WithDemo) -> Resolved:
    return resolve(kind.read(argv, env or {}), load_engines())


@pytest.mark.parametrize("argv", [(), ("--model-path", "demo"), ("--backend", "vllm")])
def test_it_is_served_when_nothing_names_a_model(argv):
    model = demo(*argv).settings.models[0]
    assert (model.name, model.model_path, model.backend, model.context_length) == (
        "demo",
        "/opt/models/demo",
        "vllm",
        1024,
    )
    assert model.engine_args == {"enforce-eager": True, "kv-cache-memory-bytes": 256 * 1024**2}


def test_it_runs_on_the_other_engine_too():
    model = demo("--backend=sglang").settings.models[0]
    assert (model.name, model.backend, model.engine_args) == ("demo", "sglang", {})


def test_its_settings_give_way_to_everything():
    model = demo("--no-enforce-eager", env={"ICHAT_CONTEXT_LENGTH": "512", "ICHAT_MODEL": "small"}).settings.models[0]
    assert (model.name, model.context_length) == ("small", 512)
    assert model.engine_args == {"kv-cache-memory-bytes": 256 * 1024**2}
    assert model.extra_argv == ("--no-enforce-eager",)
    assert demo().origins["models.demo.context_length"] == "the demo model"


def test_a_model_of_ones_own_gets_none_of_its_settings():
    model = demo("--model-path=org/m").settings.models[0]
    assert (model.context_length, model.engine_args) == (None, {})


def test_an_installation_without_it_says_how_to_name_a_model():
    with pytest.raises(ConfigError, match="Name a model: --model-path, ICHAT_MODEL_PATH"):
        demo(kind=WithoutDemo)
