"""From a whole request to the model that is asked: what it names, whether it is served, whether it asks too much."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ichat.front import model_name
from ichat.front.caps import Fields
from ichat.front.errors import Failure, invalid_body
from ichat.front.json_search import BodyError

if TYPE_CHECKING:
    from ichat.front.model import Model
    from ichat.front.request import Request
    from ichat.front.routing import RoutingTable


class Inquiry:
    """Into a long body: a slice at each step, so that the loop can do other things in between."""

    __slots__ = ("_request", "_search", "_table")

    def __init__(self, request: Request, table: RoutingTable, search: model_name.Search) -> None:
        self._request, self._table, self._search = request, table, search

    def step(self) -> Model | Failure | None:
        """None: not known yet."""
        search = self._search
        try:
            if not search.step():
                return None
        except BodyError as error:
            return _told(error)
        return _judged(self._request, self._table, search.name, search.fields)


def inquire(request: Request, table: RoutingTable) -> Model | Failure | Inquiry:
    """At once, where the body is short."""
    try:
        found = model_name.search(request, table.all_keys, table.number_keys)
    except BodyError as error:
        return _told(error)
    if type(found) is dict:
        model = table.by_name.get(found.get("model") or "")
        if model is not None and (model.caps is None or not model.caps.may_object(request.body, found)):
            return model  # nearly always
        return _judged(request, table, found.get("model"), found.items())
    return _judged(request, table, None, ()) if found is None else Inquiry(request, table, found)  # type: ignore[arg-type]


def _told(error: BodyError) -> Failure:
    """Words about a field begin with its name; those about all of the body with `body`, or with a header's name."""
    subject, _, _ = str(error).partition(":")
    return invalid_body(str(error), subject if subject.islower() and subject != "body" else None)


def _judged(request: Request, table: RoutingTable, name: str | None, fields: Fields) -> Model | Failure:
    if not name:  # as the engines do, that counts as none
        name = model_name.outside(request)
    model = table.find(name)
    if isinstance(model, Failure) or model.caps is None:
        return model
    generates = request.route is None or request.route.generates
    return model.caps.objection(request.body, fields, generates=generates) or model
