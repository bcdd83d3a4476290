"""How many bytes of request bodies this process holds: arriving, waiting and in flight, of all clients together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ichat.front.errors import Failure, overloaded
from ichat.front.model import share

if TYPE_CHECKING:
    from ichat.config.schema import Limits, Timeouts


class HeldBodies:
    """``count`` is what is held now. Whoever gets a byte of a body adds it, and takes it away when he lets go of it.

    One of several processes has its share of the limit, and room for one body at least.
    """

    __slots__ = ("_limits", "_processes", "_timeouts", "count", "limit")

    def __init__(self, limits: Limits, timeouts: Timeouts, processes: int) -> None:
        self._limits, self._timeouts, self._processes = limits, timeouts, processes
        self.count = 0
        self.configure()

    def configure(self) -> None:
        """The limits have changed."""
        most = self._limits.bodies_bytes
        self.limit = max(share(most, self._processes), min(most, self._limits.body_bytes))

    def refusal(self) -> Failure:
        return overloaded(self.limit, self._timeouts.retry_after_s)
