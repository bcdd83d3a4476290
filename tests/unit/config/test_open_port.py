"""A port without a key that other machines reach is told, with the way out; one that they do not reach is not."""

import pytest

from ichat.config.notices import open_port
from ichat.config.schema import Server


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "", "gpu-7.example.org"])
def test_a_port_that_others_reach_without_a_key_is_told_with_the_way_out(host):
    (words,) = open_port(Server(host=host), 8123)
    assert "no API key is set" in words
    assert "ICHAT_API_KEY" in words
    assert "ICHAT_HOST=127.0.0.1" in words
    assert "8123" in words


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost", "ichat.localhost"])
def test_a_loopback_address_is_nobody_elses(host):
    assert list(open_port(Server(host=host), 8000)) == []


def test_with_a_key_there_is_nothing_to_say():
    assert list(open_port(Server(host="0.0.0.0", api_keys={"default": "k"}), 8000)) == []
