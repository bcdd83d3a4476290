"""`/v1/models`: the models under all of their names, in OpenAI's shape and with what ichat knows of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from ichat.front import query
from ichat.front.errors import Failure, model_not_found
from ichat.front.replies import Reply

if TYPE_CHECKING:
    from ichat.front.model import Model
    from ichat.front.reception import Reception
    from ichat.front.request import Request

PATH = b"/v1/models"


def answer(request: Request, reception: Reception) -> Reply | Failure:
    """Those that are ready; with ``?state=all`` the others too, each with its state in words."""
    state = query.parameter(request.target, b"state")
    if state not in (None, "all", "ready"):
        return Failure(400, "invalid_request", f"state: {state[:32]!r} is neither ready nor all.", param="state")
    if request.path == PATH and state is None and not reception.table.has_been_ready:
        # Readiness probes of the engines' own servers ask here; an empty list would be a yes.
        return reception.table.refusal(reception.table.words())
    models = {name: model for model in reception.table.models for name in model.names}
    if request.path == PATH:
        shown = [(name, model) for name, model in models.items() if model.is_ready or state == "all"]
        return _json({"object": "list", "data": [_card(name, model) for name, model in shown]})
    name = query.decoded(request.path[len(PATH) + 1 :])
    if (model := models.get(name)) is None:
        return model_not_found(name, list(models))
    return _json(_card(name, model)) if model.is_ready or state == "all" else model.refusal()


def _json(value: Any) -> Reply:
    return Reply(200, orjson.dumps(value))


def _card(name: str, model: Model) -> dict[str, Any]:
    route = model.route
    card = {
        "id": name,
        "object": "model",
        "created": int(route.since),
        "owned_by": "ichat",
        "root": model.name,
        "backend": route.backend,
        "state": "ready",
        "max_model_len": route.max_model_len,
        "limits": {limit: value for limit, value in route.limits.items() if value is not None},
    }
    if not model.is_ready:
        card["state"] = "starting" if route.state == "ready" else route.state
        card["words"] = model.words()
    return card
