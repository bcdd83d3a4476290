"""A start that the system does not let us do: its cause decides the exit code."""

from __future__ import annotations

import errno
import os

import pytest

from ichat.errors import ExitCode, IchatError, ResourceError
from ichat.launcher.board import Board
from ichat.launcher.instance import Instance, InstanceSpec
from ichat.launcher.supervisor import Supervisor
from tests.unit.launcher.fakes import FakeProcess, settings

pytestmark = pytest.mark.looptime


def refusal(number: int, path: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), path) if path else OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (refusal(errno.EMFILE), ExitCode.RESOURCE),
        (refusal(errno.ENFILE), ExitCode.RESOURCE),
        (refusal(errno.ENOSPC, "/run/w/2"), ExitCode.CANNOT_CREATE),
        (refusal(errno.ENOTDIR, "/run/w/2"), ExitCode.CANNOT_CREATE),
        (refusal(errno.EACCES, "/run/w/2"), ExitCode.PERMISSION),
        (ResourceError("demo/0: could not start python. Free memory or pids."), ExitCode.RESOURCE),
    ],
)
async def test_a_start_that_is_refused_is_told_by_its_cause(error: Exception, exit_code: ExitCode) -> None:
    def start(spec: InstanceSpec) -> FakeProcess:
        raise error

    rules, board = settings(), Board()
    instance = Instance(InstanceSpec("demo/0", 0, rules.models[0]), start, board, rules.timeouts)
    with pytest.raises(IchatError) as found:
        await Supervisor(instance, (rules.restarts, rules.timeouts)).run()
    assert found.value.exit_code == exit_code
    assert str(found.value).startswith("demo/0: could not ")
    assert board["demo/0"].state == "failed"
