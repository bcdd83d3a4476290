"""Who answers a request: the front by itself, a worker through a relay, or nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ichat.front import own_endpoints, refused_routes
from ichat.front.access import may_have_key_header
from ichat.front.cors import Origins
from ichat.front.errors import INVALID_API_KEY, INVALID_API_KEY_OF_EITHER, Failure, moved, not_offered, shutting_down
from ichat.front.held_bodies import HeldBodies
from ichat.front.known_heads import KnownHeads
from ichat.front.relay import Relay
from ichat.front.routes import Route, find_route

if TYPE_CHECKING:
    from ichat.config.schema import Limits, Timeouts
    from ichat.front.access import Keyring
    from ichat.front.client_connection import ClientConnection
    from ichat.front.exchange import Exchange
    from ichat.front.metrics_desk import MetricsDesk
    from ichat.front.replies import Reply
    from ichat.front.request import Request
    from ichat.front.routing import RoutingTable
    from ichat.front.traffic import Traffic

#: Connections above the limit in which a probe may still be answered.
_SURPLUS = 64
_KNOWN_HEADS = 256


class Reception:
    """What all client connections share. ``is_withdrawn``: not ready, though still serving."""

    def __init__(
        self,
        limits: Limits,
        timeouts: Timeouts,
        keyring: Keyring,
        table: RoutingTable,
        traffic: Traffic,
    ) -> None:
        self.limits, self.timeouts, self.table, self.traffic = limits, timeouts, table, traffic
        self._keyring = keyring
        self.connection_limit = limits.connections
        self.origins = Origins(())
        self.bodies = HeldBodies(limits, timeouts, table.processes)
        self.clients: set[ClientConnection] = set()
        self.known: KnownHeads[Request] = KnownHeads(_KNOWN_HEADS)
        self.is_withdrawn = False
        self.is_draining = False
        self.metrics: MetricsDesk

    def begin_drain(self) -> None:
        """From now on new requests are refused, also those whose like was welcome before."""
        self.is_draining = True
        self.known.close()
        self.table.close(shutting_down(self.timeouts.retry_after_s))

    def opened(self, client: ClientConnection) -> bool:
        """False: there is no room for it at all."""
        count = len(self.clients)
        self.clients.add(client)
        client.is_surplus = count >= self.connection_limit
        return count < self.connection_limit + _SURPLUS

    def closed(self, client: ClientConnection) -> None:
        self.clients.discard(client)

    def judge(self, request: Request) -> Failure | None:
        """What speaks against a request as far as its head tells; finds its route."""
        path = request.path
        request.route = route = find_route(path)
        if request.method == b"OPTIONS" and (route is not None or own_endpoints.is_known(path)):
            return None  # whoever asks, nothing but what may be asked is told
        if route is None and own_endpoints.is_open(path):
            return own_endpoints.check_method(request)
        if self._keyring.has_keys:
            if (owner := self._keyring.owner(request)) is None:
                return INVALID_API_KEY_OF_EITHER if may_have_key_header(request) else INVALID_API_KEY
            request.key_name = owner
        return self._judge_path(request) if route is None else self._judge_method(request, route)

    def _judge_method(self, request: Request, route: Route) -> Failure | None:
        if request.method not in route.methods:
            return own_endpoints.wrong_method(request, route.methods)
        return shutting_down(self.timeouts.retry_after_s) if self.is_draining else None

    @staticmethod
    def _judge_path(request: Request) -> Failure | None:
        """It is none of an engine's."""
        path = request.path
        if (bare := own_endpoints.without_slash(path)) is not None:
            return moved(request.target, path, bare)
        if own_endpoints.is_known(path):
            return own_endpoints.check_method(request)
        return not_offered(request.path, refused_routes.instead_of(request.path))

    def answer(self, request: Request) -> Reply | Exchange | Failure:
        if request.method == b"OPTIONS":
            route = request.route
            methods = own_endpoints.methods_of(request.path) if route is None else route.methods
            return self.origins.preflight(request, (*methods, b"OPTIONS"))
        if request.route is None:
            return own_endpoints.answer(request, self)
        return Relay(request, self.table, self.traffic)
