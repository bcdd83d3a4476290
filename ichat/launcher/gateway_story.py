"""What an operator is told about the gateway: one line when something changes, none while it stays as it is."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ichat.launcher.announcement import Announcement, Steps
from ichat.launcher.gateway_api import GatewayError

log = logging.getLogger(__name__)


class Story:
    """``gateway`` is its address, as it is shown."""

    def __init__(self, gateway: str) -> None:
        self._gateway = gateway
        self._told = ""
        self._unsettled_since: float | None = None

    def settled(self, url: str, announcements: Sequence[Announcement], health: str, *, was_listed: bool) -> None:
        """The gateway lists what is wanted, and nothing else."""
        self._unsettled_since = None
        names = ",".join(name for one in announcements for name in one.names)
        if names:
            self._tell(f"registered {names}", logging.INFO, f"registered url={url} models={names}")
        elif was_listed:
            self._tell("withdrawn", logging.INFO, f"withdrawn, until we are ready ({health})")

    def unsettled(self, steps: Steps, url: str, now: float, limit_s: float) -> None:
        """It does not yet; when that lasts longer than the limit, there is somebody who could help."""
        if self._unsettled_since is None or "draining" in steps.waiting.values():
            self._unsettled_since = now  # a drain has its end, and is none of our business
        if steps.taken:
            advice = "Give each its own gateway.advertise"
            self._tell("taken", logging.WARNING, f"lists another ichat at {steps.taken}, which is ours. {advice}")
        elif now - self._unsettled_since >= limit_s:
            status = next(iter(steps.waiting.values()), "not listed")
            advice = "Can it reach us there? If not, set gateway.advertise"
            self._tell("unsettled", logging.WARNING, f"does not choose us ({status}) at {url}. {advice}")

    def not_green(self) -> None:
        """What is not done now is not the gateway's fault."""
        self._unsettled_since = None

    def trouble(self, error: GatewayError) -> None:
        self._tell(error.kind, logging.WARNING, f"{error}; serving goes on, trying again")

    def withdrawn(self) -> None:
        log.info("gateway %s: withdrawn", self._gateway)

    def not_withdrawn(self, why: object) -> None:
        log.warning("gateway %s: could not withdraw (%s); draining anyway", self._gateway, why)

    def bug(self, error: BaseException) -> None:
        log.error("gateway %s: registration has ended by a bug; serving goes on", self._gateway, exc_info=error)

    def _tell(self, what: str, level: int, words: str) -> None:
        if what != self._told:
            self._told = what
            log.log(level, "gateway %s: %s", self._gateway, words)
