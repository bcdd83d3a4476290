"""Whether what ended is started again, and when: a pure decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ichat.config.schema import Restarts, Timeouts
from ichat.errors import EngineError, ExitCode, IchatError

#: What another start cannot change: the command line, the model, the machine, the configuration.
PERMANENT = frozenset(
    {
        ExitCode.USAGE,
        ExitCode.DATA,
        ExitCode.NO_INPUT,
        ExitCode.RESOURCE,
        ExitCode.CANNOT_CREATE,
        ExitCode.PERMISSION,
        ExitCode.CONFIG,
    }
)
_ADVICE = "See the lines above for the cause."


class OnTrial(Restarts):
    """Of an instance that has yet to show that it can serve: what fails then is not tried again."""

    enabled: bool = False


@dataclass(frozen=True)
class Ending:
    """How one life of a child ended without being told to."""

    words: str  # "vLLM process 123 (VLLM::EngineCore) was killed by SIGKILL"
    exit_code: int | None = None  # None: a signal
    code: str = EngineError.code
    is_start_timeout: bool = False  # it was killed because it did not become ready
    is_hopeless: bool = False  # no other start would fare better


@dataclass(frozen=True)
class Restart:
    after_s: float
    attempt: int  # 1 is the first within the window


@dataclass(frozen=True)
class GiveUp:
    error: IchatError


Decision = Restart | GiveUp


def decide(
    subject: str, ending: Ending, earlier: Sequence[float], now: float, rules: tuple[Restarts, Timeouts], jitter: float
) -> Decision:
    """What follows on an ending.

    ``earlier`` are the moments of all restarts so far, ``jitter`` is a random number in [0, 1): many containers that
    fail for one reason must not come back in step.
    """
    restarts, timeouts = rules
    recent = [moment for moment in earlier if moment > now - timeouts.restart_window_s]
    if ending.is_hopeless or ending.exit_code in PERMANENT:
        return GiveUp(_failure(subject, ending, ""))
    if not restarts.enabled:
        is_by_configuration = not isinstance(restarts, OnTrial)
        return GiveUp(_failure(subject, ending, " (restarts.enabled is false)" if is_by_configuration else ""))
    if len(recent) >= restarts.max_restarts:
        spent = f" after {len(recent)} restarts within {timeouts.restart_window_s:.0f} s"
        return GiveUp(_failure(subject, ending, spent))
    return Restart(_back_off_s(len(recent), timeouts, jitter), attempt=len(recent) + 1)


def _back_off_s(restarts_so_far: int, timeouts: Timeouts, jitter: float) -> float:
    """The first restart comes at once: most failures are single ones."""
    if restarts_so_far == 0:
        return 0.0
    doubled_s = timeouts.restart_backoff_s * 2.0 ** min(restarts_so_far - 1, 30)
    return min(doubled_s, timeouts.restart_backoff_limit_s) * (0.75 + jitter / 4)


def _failure(subject: str, ending: Ending, circumstance: str) -> IchatError:
    known = set(ExitCode) - {ExitCode.OK, ExitCode.DRAIN_ABORTED}
    exit_code = ExitCode(ending.exit_code) if ending.exit_code in known else ExitCode.ENGINE
    words = ending.words.rstrip(". ")
    text = f"{subject}: {words}{circumstance}."
    return IchatError(text if "." in words else f"{text} {_ADVICE}", code=ending.code, exit_code=exit_code)
