"""Whether a stop waits for routers: only where there is one that could still send requests our way."""

from __future__ import annotations

from collections.abc import Container, Mapping

from ichat.config.schema import Gateway, Timeouts

#: Kubernetes sets it in every container.
_IN_KUBERNETES = "KUBERNETES_SERVICE_HOST"
#: What stands for the place of a number that nobody gave.
WHY_NOT = "no gateway, no Kubernetes: a stop waits for no router"


def without_routers(
    timeouts: Timeouts, gateway: Gateway, given: Container[str], environ: Mapping[str, str]
) -> Timeouts | None:
    """The timeouts without lingering; None where ``linger_s`` holds as it is.

    It holds behind a gateway, in Kubernetes, and wherever it was given: whoever has another router says so by that.
    Anywhere else, as with a plain ``docker stop``, the wait would only use up the ten seconds until Docker kills.
    """
    is_wanted = "timeouts.linger_s" in given or gateway.address is not None or environ.get(_IN_KUBERNETES)
    return None if is_wanted else timeouts.model_copy(update={"linger_s": 0.0})
