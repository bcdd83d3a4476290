"""The public and the admin sockets: listening before anything else, so that a busy port is known in under a second."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from ichat.config.schema import Admin, Server
from ichat.errors import ConfigError, IchatError, PermissionDeniedError, Problem, TemporaryError
from ichat.system import process_table

#: The kernel cuts it to net.core.somaxconn. A burst of clients must find room while the front is restarted.
BACKLOG = 4096
#: The front of a launcher that was just killed may take a moment to die and to leave the port.
_BUSY_LIMIT_S = 0.25
_BUSY_POLL_S = 0.05
_LISTEN_STATE = "0A"


def listen(server: Server | Admin, processes: int = 1) -> list[socket.socket]:
    """Sockets that already accept connections, one for each address of its ``host``; all on one port.

    With several front processes there are as many sets of them, one behind the other (see `of_process`): on sockets
    that they share one process takes all the connections of a burst. They stay open here, so that a process that
    died leaves its queue to the next one.
    """
    end = time.monotonic() + _BUSY_LIMIT_S
    while True:
        try:
            if processes == 1:
                return _listen_once(server, server.port)
            return _listen_often(server, processes)
        except UnicodeError as error:  # the name cannot be asked for: an empty part, or one of more than 63 characters
            raise _wrong_host(server) from error
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > end:
                raise _explain(server, error) from error
        time.sleep(_BUSY_POLL_S)


def of_process(sockets: Sequence[socket.socket], number: int, processes: int) -> Sequence[socket.socket]:
    """Those of one front process."""
    count = len(sockets) // processes
    return sockets[number * count : (number + 1) * count]


def _listen_often(server: Server | Admin, processes: int) -> list[socket.socket]:
    # The port is shared with everybody of this user who shares it, too: that it is free shows who takes it alone.
    alone = _listen_once(server, server.port)
    port = alone[0].getsockname()[1]
    for sock in alone:
        sock.close()
    sockets: list[socket.socket] = []
    try:
        for _ in range(processes):
            sockets += _listen_once(server, port, is_shared=True)
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _listen_once(server: Server | Admin, port: int, *, is_shared: bool = False) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    try:
        for family, address in _addresses(server.host):
            sock = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if is_shared:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6 and address != "::":
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            elif family == socket.AF_INET6:
                # `::` means every address there is, also where the system would make it IPv6 only.
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.bind((address, port))
            port = sock.getsockname()[1]
            sock.listen(BACKLOG)
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _addresses(host: str) -> list[tuple[socket.AddressFamily, str]]:
    found = socket.getaddrinfo(host.strip("[]") or None, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found))


def _explain(server: Server | Admin, error: OSError) -> IchatError:
    where = f"{_section(server)}.port: {server.port}"
    variable = "ICHAT_PORT" if isinstance(server, Server) else "ICHAT_ADMIN_PORT"
    if isinstance(error, socket.gaierror) or error.errno in (errno.EADDRNOTAVAIL, errno.EINVAL):
        return _wrong_host(server)
    if error.errno == errno.EADDRINUSE:
        return TemporaryError(
            f"{where} is in use{holder_of(server.port)}. Stop it, or choose another with {variable}.",
            code="E-PORT-BUSY",
        )
    if error.errno == errno.EACCES:
        return PermissionDeniedError(
            f"{where} needs privileges that this user lacks. Choose a port above 1023 with {variable}.",
            code="E-PORT-PRIVILEGED",
        )
    return TemporaryError(f"{where} cannot be listened on ({error.strerror}).", code="E-PORT")


def _wrong_host(server: Server | Admin) -> ConfigError:
    what = f'"{server.host}" is no address of this machine. Use 0.0.0.0 for all of them.'
    return ConfigError([Problem("E-CFG-HOST", f"{_section(server)}.host:", what)])


def _section(server: Server | Admin) -> str:
    return "server" if isinstance(server, Server) else "admin"


def holder_of(port: int) -> str:
    """`` by pid 4711 (python -m http.server)``, as far as this user may see it; else nothing."""
    inodes = _listening_inodes(port)
    for name in filter(str.isdigit, os.listdir("/proc")) if inodes else ():  # noqa: PTH208  names are wanted
        with contextlib.suppress(OSError):
            for entry in os.scandir(f"/proc/{name}/fd"):
                if str(Path(entry.path).readlink()) in inodes:
                    command = process_table.command_line(int(name))
                    return f" by pid {name} ({command})" if command else f" by pid {name}"
    return ""


def _listening_inodes(port: int) -> set[str]:
    inodes: set[str] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN_STATE and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    return inodes
