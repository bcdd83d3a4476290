"""What an engine raises while it starts becomes an exit code and a way out."""

from __future__ import annotations

import errno
import socket

import pytest

from ichat.backends.failures import explain_start_failure, refuse_arguments
from ichat.errors import ConfigError, EngineError, ExitCode, ModelDataError


def raised(name: str, module: str = "huggingface_hub.errors", message: str = "first line\nsecond line") -> Exception:
    """An exception of a library that is not here."""
    return type(name, (Exception,), {"__module__": module})(message)


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (raised("GatedRepoError"), ExitCode.PERMISSION),
        (raised("RepositoryNotFoundError"), ExitCode.NO_INPUT),
        (raised("LocalEntryNotFoundError"), ExitCode.TEMPORARY),
        (raised("ConnectionError", "requests.exceptions"), ExitCode.TEMPORARY),
        (raised("OutOfMemoryError", "torch"), ExitCode.RESOURCE),
        (raised("SafetensorError", "safetensors_rust"), ExitCode.DATA),
        (MemoryError(), ExitCode.RESOURCE),
        (socket.gaierror(-3, "Temporary failure in name resolution"), ExitCode.TEMPORARY),
        (OSError(errno.ENOSPC, "No space left on device"), ExitCode.CANNOT_CREATE),
        (OSError(errno.EROFS, "Read-only file system"), ExitCode.CANNOT_CREATE),
        (PermissionError(errno.EACCES, "Permission denied"), ExitCode.PERMISSION),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), ExitCode.ENGINE),
        (RuntimeError("Engine core initialization failed."), ExitCode.ENGINE),
        (ModelDataError("model.safetensors: too short"), ExitCode.DATA),
    ],
)
def test_the_exit_code_tells_what_to_do(error: Exception, exit_code: ExitCode) -> None:
    assert explain_start_failure(error).exit_code is exit_code


def test_the_cause_is_found_below_what_hides_it() -> None:
    hidden = RuntimeError("it did not work")
    hidden.__cause__ = ValueError("because")
    hidden.__cause__.__context__ = raised("GatedRepoError")
    assert explain_start_failure(hidden).exit_code is ExitCode.PERMISSION


def test_only_the_first_line_of_the_engine_is_told() -> None:
    assert "second" not in str(explain_start_failure(raised("Whatever")))


def test_a_failure_of_ours_stays_as_it_is() -> None:
    error = EngineError("hung")
    assert explain_start_failure(error) is error


def test_refused_arguments_are_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="vLLM refuses them: unrecognized arguments: --nonsense") as caught:
        refuse_arguments("vLLM", "unrecognized arguments: --nonsense")
    assert caught.value.exit_code is ExitCode.CONFIG
