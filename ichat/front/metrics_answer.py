"""The answer to a client that asks for `/metrics`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ichat.front.replies import Reply

if TYPE_CHECKING:
    from ichat.front.client_connection import ClientConnection
    from ichat.front.errors import Failure
    from ichat.front.reception import Reception
    from ichat.front.request import Request

_REPLY = Reply(200, b"", b"text/plain; version=0.0.4; charset=utf-8")


class MetricsAnswer:
    """Waits for a round of the metrics desk; whoever is told to end sooner tells the front's own numbers alone."""

    __slots__ = ("_client", "_reception", "_request")

    def __init__(self, request: Request, reception: Reception) -> None:
        self._request, self._reception = request, reception
        self._client: ClientConnection | None = None

    def start(self, client: ClientConnection) -> None:
        self._client = client
        self._reception.metrics.ask(self._answer)

    def pause(self) -> None:
        """The answer is written at once: there is nothing to hold back."""

    def resume(self) -> None:
        """See `pause`."""

    def client_left(self) -> None:
        self._client = None

    def end(self, failure: Failure) -> None:
        del failure
        self._answer([self._reception.metrics.own_text().encode()])

    def look_for_answer(self, limit_s: float, now: float) -> None:
        """No worker is asked."""

    def _answer(self, parts: list[bytes]) -> None:
        client, self._client = self._client, None
        if client is None:
            return
        request = self._request
        client.write(_REPLY.encode_head(client.own_lines(request, request.keep_alive), sum(map(len, parts))))
        if request.method != b"HEAD":
            client.write_all(parts)  # joining some megabytes would hold up every stream
        client.exchange_ended(keep_alive=request.keep_alive)
