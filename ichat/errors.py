"""Every foreseen failure, with the exit code and the one line that a person reads at 3 a.m."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from enum import IntEnum

LINE_LIMIT = 300


class ExitCode(IntEnum):
    """Exit codes of every ichat process (sysexits.h where it has a word for it)."""

    OK = 0  # a commanded stop that lost nothing
    USAGE = 64  # the command line cannot be understood
    DATA = 65  # bad model data
    NO_INPUT = 66  # a model or configuration path is missing
    ENGINE = 69  # the engine died and the restart budget is spent
    SOFTWARE = 70  # our own bug
    RESOURCE = 71  # the system lacks something: descriptors, shared memory, memory, a GPU
    CANNOT_CREATE = 73  # a cache or the disk cannot be written
    DRAIN_ABORTED = 74  # the drain deadline cut requests off
    TEMPORARY = 75  # try again later: port busy, hub or DNS unreachable
    PERMISSION = 77  # not allowed to read or write something
    CONFIG = 78  # the configuration is wrong


class IchatError(Exception):
    """A foreseen failure.

    ``str(error)`` is ``<subject as the user typed it>: <what is wrong>. <what to do>.`` and never holds a
    secret; ``line()`` is the same as the one line that ends a process.
    """

    exit_code = ExitCode.SOFTWARE
    code = "E-INTERNAL"

    def __init__(self, message: str, *, code: str | None = None, exit_code: ExitCode | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
        if exit_code is not None:
            self.exit_code = exit_code

    def line(self) -> str:
        return error_line(self.code, str(self))


class UsageError(IchatError):
    exit_code, code = ExitCode.USAGE, "E-USAGE"


class ModelDataError(IchatError):
    exit_code, code = ExitCode.DATA, "E-MODEL-DATA"


class ModelMissingError(IchatError):
    exit_code, code = ExitCode.NO_INPUT, "E-MODEL-MISSING"


class EngineError(IchatError):
    """The engine died, hung, or could not start."""

    exit_code, code = ExitCode.ENGINE, "E-ENG-DIED"


class ResourceError(IchatError):
    exit_code, code = ExitCode.RESOURCE, "E-OS-RESOURCE"


class TemporaryError(IchatError):
    exit_code, code = ExitCode.TEMPORARY, "E-TEMPORARY"


class PermissionDeniedError(IchatError):
    exit_code, code = ExitCode.PERMISSION, "E-PERMISSION"


@dataclass(frozen=True)
class Problem:
    """One thing wrong with the configuration: where the user typed it, and what is wrong.

    ``place`` is ``file:line:col``, the name of an environment variable, or the flag on the command line.
    """

    code: str
    place: str
    message: str
    exit_code: ExitCode = ExitCode.CONFIG

    def line(self) -> str:
        return error_line(self.code, f"{self.place} {self.message}" if self.place else self.message)


class ConfigError(IchatError):
    """All that is wrong with a configuration, in the order in which the user typed it."""

    exit_code, code = ExitCode.CONFIG, "E-CFG"

    def __init__(self, problems: list[Problem]) -> None:
        if not problems:
            raise ValueError("a ConfigError needs at least one problem")
        super().__init__("\n".join(f"{p.place} {p.message}".strip() for p in problems))
        self.problems = problems
        # One wrong value among many must not hide behind a missing file: a mixed list is a configuration error.
        codes = {p.exit_code for p in problems}
        self.exit_code = codes.pop() if len(codes) == 1 else ExitCode.CONFIG
        self.code = problems[0].code

    def line(self) -> str:
        return "\n".join(problem.line() for problem in self.problems)


def exit_code_of(error: BaseException) -> int:
    """That of a process which this ends."""
    return int(error.exit_code if isinstance(error, IchatError) else ExitCode.SOFTWARE)


#: What the system refuses to any program: exit code, code, and what to do.
_BY_ERRNO: dict[int, tuple[ExitCode, str, str]] = {
    errno.ENOSPC: (ExitCode.CANNOT_CREATE, "E-OS-DISK-FULL", "Free some space, or mount a larger volume."),
    errno.EDQUOT: (ExitCode.CANNOT_CREATE, "E-OS-DISK-FULL", "Free some space, or raise the quota."),
    errno.EFBIG: (ExitCode.RESOURCE, "E-OS-FILE-SIZE", "Raise the limit of a file's size (ulimit -f)."),
    errno.EROFS: (ExitCode.CANNOT_CREATE, "E-OS-READ-ONLY", "Mount a writable volume."),
    errno.EACCES: (ExitCode.PERMISSION, "E-PERMISSION", "Check the owner and mode of the path."),
    errno.EAGAIN: (ExitCode.RESOURCE, "E-OS-RESOURCE", "Raise the limit of processes (pids), or end some."),
    errno.EMFILE: (ExitCode.RESOURCE, "E-OS-DESCRIPTORS", "Raise the limit of open files (ulimit -n)."),
    errno.ENFILE: (ExitCode.RESOURCE, "E-OS-DESCRIPTORS", "The machine has no more open files: raise fs.file-max."),
    errno.ENOMEM: (ExitCode.RESOURCE, "E-OS-MEMORY", "Give the container more memory."),
    errno.ENOBUFS: (ExitCode.RESOURCE, "E-OS-MEMORY", "Give the container more memory."),
}


def known_refusal(error: BaseException) -> tuple[ExitCode, str, str] | None:
    """(exit code, code, what to do) of an OSError with a cause that is known on any system; else None."""
    return _BY_ERRNO.get(error.errno or 0) if isinstance(error, OSError) else None


#: What the system may have again in a moment.
_PASSING = frozenset(
    {errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC, errno.EDQUOT}
)


def is_passing(error: BaseException | None) -> bool:
    """Whether the same may work soon: the system, or its limit, had too little of something. Causes count too."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _PASSING:
            return True
        error = error.__cause__
    return False


def system_failure(subject: str, error: OSError) -> IchatError:
    """The failure to report where the system did not let us do what we must; an unknown cause is CANNOT_CREATE."""
    exit_code, code, advice = known_refusal(error) or (ExitCode.CANNOT_CREATE, "E-OS", "Check that path and its disk.")
    what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or repr(error)
    return IchatError(f"{subject}: {what}. {advice}", code=code, exit_code=exit_code)


def error_line(code: str, message: str) -> str:
    """The error line of one failure: a single line of at most 300 characters."""
    line = f"ichat: error[{code}] {' '.join(message.split())}"
    return line if len(line) <= LINE_LIMIT else line[: LINE_LIMIT - 1] + "…"
