"""``python -m ichat.front --control-fd N --listen-fd M``: started by the launcher only."""

from __future__ import annotations

import argparse
import ctypes
import gc
import logging
import os
import resource
import signal
import socket
import struct
import sys

from ichat.errors import ExitCode, IchatError

_PR_SET_PDEATHSIG = 1


def main() -> int:
    arguments = _parse()
    control = socket.socket(fileno=arguments.control_fd)
    # First of all, and before any import that takes time: whoever started us must not be outlived.
    if not _dies_with(control):
        return ExitCode.SOFTWARE
    _raise_descriptor_limit()
    listeners = [socket.socket(fileno=fd) for fd in arguments.listen_fds]
    for sock in (control, *listeners):
        sock.set_inheritable(False)

    import uvloop

    return uvloop.run(_serve(control, listeners))


async def _serve(control: socket.socket, listeners: list[socket.socket]) -> ExitCode:
    from ichat.front.server import Front
    from ichat.ipc import messages
    from ichat.ipc.channel import Channel
    from ichat.observe.logs import set_level, set_up_logs

    channel = await Channel.open(control)
    start = await channel.receive()
    if not isinstance(start, messages.StartFront):
        return ExitCode.SOFTWARE
    lines = set_up_logs(start.log_format)
    set_level(start.log_level)
    try:
        front = Front(start, channel)
    except IchatError as error:
        logging.getLogger(__name__).error("%s", error)
        lines.close()
        return error.exit_code
    # What is here now stays. On the path of a request rings are broken by hand, so that the collector may come
    # seldom: a full collection holds up every stream.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    try:
        return await front.run(listeners)
    finally:
        lines.close()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="ichat.front")
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--listen-fd", type=int, required=True, action="append", dest="listen_fds")
    return parser.parse_args()


def _dies_with(control: socket.socket) -> bool:
    """Ask the kernel to kill us when our parent dies; False if it already has."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    peer = control.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return bool(struct.unpack("3i", peer)[0] == os.getppid())


def _raise_descriptor_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
