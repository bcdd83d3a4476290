"""The public sockets: a host that cannot be one is the user's mistake, whatever the system calls it."""

from __future__ import annotations

import os
import socket

import pytest

from ichat.config.schema import Admin, Server
from ichat.errors import ConfigError, ExitCode, TemporaryError
from ichat.launcher import listeners


@pytest.mark.parametrize("host", ["..", ".a", f"{'a' * 64}.example", "192.0.2.1", "256.256.256.256"])
def test_a_host_that_is_no_address_of_this_machine_is_a_wrong_configuration(host: str) -> None:
    with pytest.raises(ConfigError) as caught:
        listeners.listen(Server(host=host, port=0))
    assert caught.value.exit_code == ExitCode.CONFIG
    assert str(caught.value).startswith(f'server.host: "{host}" is no address of this machine.')


def test_a_busy_admin_port_names_its_holder_and_its_own_setting() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(TemporaryError) as caught:
            listeners.listen(Admin(port=port))
    assert caught.value.exit_code == ExitCode.TEMPORARY
    assert str(caught.value).startswith(f"admin.port: {port} is in use by pid {os.getpid()} (")
    assert str(caught.value).endswith("choose another with ICHAT_ADMIN_PORT.")
