"""What can be commanded of a running ichat: the one interface between the admin port and those who do the work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


class ControlError(Exception):
    """A command that is refused, with the HTTP status to refuse it with. The message tells the way out."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


@dataclass(frozen=True)
class CommandOutcome:
    """What one instance answered: the status of an HTTP answer, and its body."""

    instance: str  # "qwen/0"
    status: int
    body: dict[str, Any]


class Controls(Protocol):
    """Everything here returns when it is done, and answers with what is to be shown as JSON.

    A ``model`` is the name of a model (or any name that it is served under), an ``instance`` is ``qwen/0``; one that
    nobody knows is a ControlError 404 that names those there are. An IchatError means: refused, nothing was changed.
    """

    def status(self) -> dict[str, Any]:
        """What ``ichat status`` shows."""

    def describe_config(self) -> dict[str, Any]:
        """The configuration that serves, without secrets, its ``generation``, and the last reload's ``error``."""

    async def plan(self) -> dict[str, Any]:
        """What a reload would change."""

    async def reload(self) -> dict[str, Any]:
        """Take the configuration files as they are now."""

    async def restart(self, model: str) -> dict[str, Any]:
        """One instance after the other, without a failed request."""

    async def drain(self, model: str, instance: str | None) -> dict[str, Any]:
        """Send no new requests there, and return when those in flight have ended."""

    async def undrain(self, model: str, instance: str | None) -> dict[str, Any]:
        """Send requests there again."""

    async def command(
        self, model: str, instance: str | None, action: str, arguments: dict[str, Any]
    ) -> list[CommandOutcome]:
        """Pass a command on to the engine of one instance, or of all of them: one outcome each."""

    def log_level(self) -> dict[str, Any]:
        """``{"level": …}`` of ichat's own lines, in the launcher and the front."""

    async def set_log_level(self, level: str) -> dict[str, Any]:
        """Change it, for both."""
