"""Which worker has a request: found at once, after a wait in the model's line, or for a second try."""

from __future__ import annotations

import abc
import asyncio
import logging
import time
from typing import TYPE_CHECKING

from ichat.front.errors import INTERNAL_ERROR
from ichat.front.inquiry import Inquiry, inquire
from ichat.front.model import Model

if TYPE_CHECKING:
    from ichat.front.errors import Failure
    from ichat.front.request import Request
    from ichat.front.response_head import ResponseHead
    from ichat.front.routing import RoutingTable
    from ichat.front.traffic import ModelTraffic, Traffic
    from ichat.front.worker import Worker
    from ichat.front.worker_connection import WorkerConnection

_log = logging.getLogger(__name__)


class Placement(abc.ABC):
    """The half of a relay that is concerned with the choice of a worker; the other half speaks to it.

    As long as it has a worker it is in flight there and in its model; as long as it has none it may be in the line of
    its model, which it leaves by `_leave`. So whatever ends a request ends with that.
    """

    __slots__ = (
        "_is_over",
        "_model",
        "_model_traffic",
        "_names",
        "_request",
        "_table",
        "_traffic",
        "_tried",
        "_waits_since",
        "_was_held",
        "_was_refused",
        "_was_sent",
        "_worker",
        "started_at",
    )

    def __init__(self, request: Request, table: RoutingTable, traffic: Traffic) -> None:
        self._request, self._table, self._traffic = request, table, traffic
        self._model: Model | None = None
        self._worker: Worker | None = None
        self._tried: tuple[Worker, ...] = ()
        self._was_sent = False  # a worker has read it, or may have
        self._was_refused = False  # a connection ended before the worker had read it
        self._was_held = False  # once no worker could be reached, so it waited for one
        self._waits_since = 0.0  # 0: it does not wait
        self._names: list[str] = []  # of the model, when the wait began
        self._is_over = False
        self._model_traffic: ModelTraffic | None = None
        self.started_at = time.monotonic()

    # ---- the other half -----------------------------------------------------------------------------------

    @abc.abstractmethod
    def connected(self, connection: WorkerConnection) -> None:
        """Send the request: here is a connection to the worker."""

    @abc.abstractmethod
    def _refuse(self, failure: Failure) -> None:
        """End the request by this."""

    @abc.abstractmethod
    def _abandon(self) -> None:
        """Want no more of the answer that is arriving."""

    # ---- the first try ------------------------------------------------------------------------------------

    def _place(self) -> None:
        self._follow(self._found())

    def _found(self) -> Model | Failure | Inquiry:
        try:
            return inquire(self._request, self._table)
        except Exception:  # noqa: BLE001  told by _unreadable
            return _unreadable()

    def _follow(self, found: Model | Failure | Inquiry) -> None:
        if isinstance(found, Inquiry):
            self._inquire(found)
        else:
            self._route(found)

    def _inquire(self, inquiry: Inquiry) -> None:
        """One slice of a long body in each turn of the loop."""
        if self._is_over:
            return
        try:
            found = inquiry.step()
        except Exception:  # noqa: BLE001  told by _unreadable
            found = _unreadable()
        if found is None:
            asyncio.get_running_loop().call_soon(self._inquire, inquiry)
        else:
            self._route(found)

    def _route(self, model: Model | Failure) -> None:
        if not isinstance(model, Model):
            self._refuse(model)
            return
        self._model = model
        self._model_traffic = self._traffic.model(model.name)
        if model.in_flight < model.capacity and not model.waiters:
            self._go_to(self._pick())
        elif (failure := model.join(self)) is not None:
            self._refuse(failure)
        else:
            self._begin_wait()

    def _pick(self, tried: tuple[Worker, ...] = ()) -> Worker | None:
        assert self._model is not None
        assert self._model_traffic is not None
        return self._model.pick(self._request, self._model_traffic, tried)

    # ---- the wait (see ``waiting.Waiter``) ----------------------------------------------------------------

    def admitted(self) -> None:
        assert self._model is not None
        self._end_wait()
        if self._model.names == self._names:
            self._go_to(self._pick())
        else:
            self._place_again()

    def _place_again(self) -> None:
        """The model goes by other names now: the one that was asked for may be nobody's, or another's."""
        found = self._found()
        if found is self._model:
            self._go_to(self._pick())
        else:
            self._follow(found)

    def refused(self, failure: Failure) -> None:
        self._end_wait()
        self._refuse(failure)

    def _begin_wait(self) -> None:
        assert self._model is not None
        assert self._model_traffic is not None
        self._names = self._model.names
        self._waits_since = time.monotonic()
        self._model_traffic.queued += 1

    def _end_wait(self) -> None:
        since, self._waits_since = self._waits_since, 0.0
        if since and self._model_traffic is not None:
            self._model_traffic.queued -= 1
            self._model_traffic.waited.observe(time.monotonic() - since)

    # ---- the second ---------------------------------------------------------------------------------------

    def _retry(self) -> bool:
        """One more try, on another worker, if there is one and retries are within their budget."""
        model, worker = self._model, self._worker
        if self._tried or model is None or worker is None:
            return False
        self._tried = (worker,)
        other = self._pick(self._tried)
        if other is None:
            return False
        # Neither makes a storm: no worker has read it, or it is the single request that tries out a resting worker.
        is_free = not self._was_sent or (worker.probe is self._request and not other.failures)
        if not self._traffic.spend_retry(model.name, is_free=is_free):
            return False
        self._leave()
        self._go_to(other)
        return True

    def _hold(self) -> bool:
        """No worker could be reached, so none has been sent it: once it may wait for the launcher's word."""
        model = self._model
        if self._was_sent or self._was_held or model is None or not model.may_wait:
            return False
        self._was_held, self._tried = True, ()
        self._leave()
        model.return_to_head(self)
        self._begin_wait()
        return True

    def _is_for_another(self, head: ResponseHead) -> bool:
        """What only one instance knows is asked of each in turn, until one does not answer 404."""
        model, worker, route = self._model, self._worker, self._request.route
        if head.status != 404 or route is None or not route.is_of_one_instance or model is None or worker is None:
            return False
        self._tried += (worker,)
        if (other := self._pick(self._tried)) is None:
            return False
        self._abandon()
        self._leave()
        self._go_to(other)
        return True

    # ---- where it is --------------------------------------------------------------------------------------

    def _go_to(self, worker: Worker | None) -> None:
        assert self._model is not None
        assert worker is not None  # where there is room there is one
        self._worker = worker
        worker.in_flight += 1
        self._model.in_flight += 1
        if (connection := worker.idle_connection()) is None:
            worker.connect(self)  # type: ignore[arg-type]  # a relay is a receiver, this half of it is not
        else:
            self.connected(connection)

    def _leave(self) -> None:
        """The worker, or the line of those who wait for one."""
        model, worker = self._model, self._worker
        if model is None:
            return
        if worker is None:
            model.waiters.pop(self, None)
            self._end_wait()
            return
        self._worker = None
        worker.in_flight -= 1
        if worker.is_retired and not worker.in_flight:
            worker.drained()
        model.in_flight -= 1
        if model.waiters:
            model.made_room()


def _unreadable() -> Failure:
    """Whatever reading a request raises ends it: without an answer its client would wait for ever."""
    _log.exception("front: a request could not be read")
    return INTERNAL_ERROR
