"""Which workers no front process has a request of any more: they can be stopped without that one is lost."""

from __future__ import annotations

from collections.abc import Callable

from ichat.ipc import messages

#: Instance and incarnation.
_Key = tuple[str, str]


class WorkerDrains:
    """Follows what every front process was told and what it has said.

    A front may hold requests of a worker from the Routes that offer it until it says, of a later one that has it
    among the others, that none is left. A front that has ended holds nothing, and neither does one that never was
    offered the worker. Listeners are called whenever a worker may have become drained.
    """

    def __init__(self) -> None:
        #: By front: the workers that it may hold requests of, each with the number of the first Routes that had it
        #: among the others since it was last offered; None: it is offered.
        self._held: dict[int, dict[_Key, int | None]] = {}
        self._listeners: list[Callable[[], None]] = []

    def listen(self, listener: Callable[[], None]) -> None:
        self._listeners.append(listener)

    def is_drained(self, instance: str, incarnation: str) -> bool:
        key = (instance, incarnation)
        return not any(key in held for held in self._held.values())

    # ---- what happens -----------------------------------------------------------------------------------------

    def sent(self, front: int, routes: messages.Routes) -> None:
        """The front has been sent these."""
        offered = {_key(instance) for model in routes.models for instance in model.instances}
        others = {_key(instance) for instance in routes.others}
        before = self._held.get(front, {})
        held: dict[_Key, int | None] = dict.fromkeys(offered)
        for key, since in before.items():
            if key in others and key not in offered:
                held[key] = routes.number if since is None else since
        self._held[front] = held
        if before.keys() - held.keys():  # those that are in neither list are dead
            self._changed()

    def said(self, front: int, message: messages.WorkerDrained) -> None:
        held = self._held.get(front, {})
        key = (message.instance, message.incarnation)
        since = held.get(key)
        # Said of Routes before: it has been offered the worker again in the meantime.
        if since is not None and message.routes >= since:
            del held[key]
            self._changed()

    def gone(self, front: int) -> None:
        """The front has ended."""
        if self._held.pop(front, None):
            self._changed()

    def _changed(self) -> None:
        for listener in self._listeners:
            listener()


def _key(instance: messages.Instance) -> _Key:
    return instance.name, instance.incarnation
