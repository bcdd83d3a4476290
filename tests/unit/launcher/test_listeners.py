"""The public sockets: a host that cannot be one is the user's mistake, whatever the system calls it."""

from __future__ import annotations

import pytest

from ichat.config.schema import Server
from ichat.errors import ConfigError, ExitCode
from ichat.launcher import listeners


@pytest.mark.parametrize("host", ["..", ".a", f"{'a' * 64}.example", "192.0.2.1", "256.256.256.256"])
def test_a_host_that_is_no_address_of_this_machine_is_a_wrong_configuration(host: str) -> None:
    with pytest.raises(ConfigError) as caught:
        listeners.listen(Server(host=host, port=0))
    assert caught.value.exit_code == ExitCode.CONFIG
    assert str(caught.value).startswith(f'server.host: "{host}" is no address of this machine.')
