"""A stop lingers only where a router could still send requests, or where somebody says so."""

import pytest

from ichat.config.lingering import WHY_NOT
from ichat.config.report import render_config

KUBERNETES = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}


def test_a_plain_docker_stop_waits_for_no_router_and_config_says_why(configure):
    resolved = configure("--model-path=org/m")
    assert resolved.settings.timeouts.linger_s == 0
    (line,) = (line for line in render_config(resolved).splitlines() if line.startswith("  linger_s:"))
    assert line.startswith("  linger_s: 0.0 ")
    assert line.endswith(f"# {WHY_NOT}")


@pytest.mark.parametrize(
    ("argv", "env"),
    [((), KUBERNETES), (("--gateway=http://router:30000",), {}), ((), {"ICHAT_GATEWAY": "http://router:30000"})],
)
def test_behind_a_gateway_and_in_kubernetes_it_lingers(configure, argv, env):
    resolved = configure("--model-path=org/m", *argv, env=env)
    assert resolved.settings.timeouts.linger_s == 5
    assert "timeouts.linger_s" not in resolved.origins


@pytest.mark.parametrize(
    ("argv", "env", "yaml"),
    [
        (("--lame-duck=7",), {}, None),
        ((), {"ICHAT_LAME_DUCK": "7"}, None),
        ((), {"ICHAT_TIMEOUTS__LINGER_S": "7"}, None),
        ((), {}, "timeouts: {linger_s: 7}"),
    ],
)
def test_who_sets_it_gets_it_anywhere(configure, argv, env, yaml):
    assert configure("--model-path=org/m", *argv, env=env, yaml=yaml).settings.timeouts.linger_s == 7


def test_the_default_that_is_given_holds_too(configure):
    assert configure("--model-path=org/m", env={"ICHAT_LAME_DUCK": "5"}).settings.timeouts.linger_s == 5


def test_zero_holds_in_kubernetes_too(configure):
    env = KUBERNETES | {"ICHAT_LAME_DUCK": "0"}
    assert configure("--model-path=org/m", env=env).settings.timeouts.linger_s == 0
