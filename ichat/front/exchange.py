"""What a client connection and whoever answers its request expect of each other."""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ichat.front.client_connection import ClientConnection
    from ichat.front.errors import Failure


class Exchange(Protocol):
    """An answer that takes time. It ends by `exchange_ended` or `cut` of its client, once, unless the client left."""

    def start(self, client: ClientConnection) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def client_left(self) -> None: ...

    def end(self, failure: Failure) -> None: ...

    def look_for_answer(self, limit_s: float, now: float) -> None:
        """Give up what a worker was sent so long ago, and of which no byte has come."""


class State(Enum):
    IDLE = auto()  # between requests
    HEAD = auto()  # a part of a head is here
    BODY = auto()  # a part of a body is here
    SERVING = auto()
    CLOSING = auto()  # the last answer leaves; what still arrives is thrown away
