"""What a gateway is told about each model, what it lists, and what must be done so that the two agree."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import SplitResult, urlsplit, urlunsplit

from ichat.ipc.messages import RouteModel

#: Its value is that of the container's present life: no other has it, whatever address it has.
INCARNATION = "ichat.incarnation"
_PORTS = {"http": 80, "https": 443}
#: By wildcard. Nothing is bound here, only compared with.
_LOOPBACK = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
#: smg's words for what a worker runs.
_RUNTIMES = {"vllm": "vllm", "sglang": "sglang"}


@dataclass(frozen=True)
class Announcement:
    """One model under one URL: a gateway of this kind knows one model for each."""

    url: str
    names: tuple[str, ...]
    backend: str
    max_model_len: int | None
    labels: Mapping[str, str]

    @classmethod
    def of(cls, model: RouteModel, url: str, incarnation: str) -> Announcement:
        facts: dict[str, Any] = {
            "names": ",".join(model.served_names),
            "backend": model.backend,
            "max_model_len": model.max_model_len,
            **{f"limit_{name}": limit for name, limit in model.limits.items()},
        }
        labels = {f"ichat.{name}": str(value) for name, value in facts.items() if value is not None}
        names = tuple(model.served_names)
        return cls(url, names, model.backend, model.max_model_len, {INCARNATION: incarnation, **labels})

    def spec(self, check_every_s: int) -> dict[str, Any]:
        """The body of smg's ``POST /workers``.

        ``drain_settle_secs`` 0: a worker that is deleted is gone at once, not after five seconds in which its address
        cannot be registered again. What is in flight there ends as it would have: we finish it, whoever lists us.
        """
        card: dict[str, Any] = {"id": self.names[0], "aliases": list(self.names[1:])}
        if self.max_model_len is not None:
            card["context_length"] = self.max_model_len
        return {
            "url": self.url,
            "runtime_type": _RUNTIMES.get(self.backend, "generic"),
            "models": [card],
            "labels": dict(self.labels),
            "health": {"check_interval_secs": check_every_s, "drain_settle_secs": 0},
        }


@dataclass(frozen=True)
class Listed:
    """A worker as the gateway lists it. ``status``: pending, ready, not_ready, failed, draining."""

    id: str
    url: str
    status: str
    labels: Mapping[str, str]

    @property
    def incarnation(self) -> str | None:
        """None: nobody of our kind has registered it."""
        return self.labels.get(INCARNATION)

    @property
    def is_chosen(self) -> bool:
        """Whether requests are sent there, or may be again: smg asks those that are not ready whether they are."""
        return self.status != "draining"

    def agrees_with(self, announcement: Announcement) -> bool:
        ours = {name: value for name, value in self.labels.items() if name.startswith("ichat.")}
        return ours == announcement.labels


@dataclass
class Steps:
    """What to do next, and what must be waited for before it can be said that all is well."""

    create: list[Announcement] = field(default_factory=list)
    replace: list[tuple[str, Announcement]] = field(default_factory=list)
    remove: list[str] = field(default_factory=list)
    waiting: dict[str, str] = field(default_factory=dict)  # URL → the status it has instead of ready
    taken: str | None = None  # a URL of ours at which somebody has registered since

    @property
    def is_settled(self) -> bool:
        return not (self.create or self.replace or self.remove or self.waiting or self.taken)


def next_steps(
    wanted: Iterable[Announcement], listed: Iterable[Listed], incarnation: str, confirmed: Collection[str]
) -> Steps:
    """``listed`` is what the gateway has at our address; ``confirmed`` are the URLs at which it has had us.

    Whoever was at our address before us has gone, and is replaced. Whoever comes after us is left alone: two that
    advertise one address would push each other out for ever.

    A draining worker is never replaced: smg takes the new one, says it is ready, and drops it when the drain of the
    old one is over. Nor can it be registered anew before: its address is refused until then.

    A URL that is not wanted any more while others are is lent to the first model: a removal takes along all that lead
    to the same address, however they are spelled.
    """
    at = {one.url: one for one in listed}
    strangers = [one.url for one in at.values() if one.incarnation not in (None, incarnation)]
    if taken := sorted(set(strangers) & set(confirmed)):
        return Steps(taken=taken[0])
    steps = Steps()
    wishes = {one.url: one for one in wanted}
    for url, wish in wishes.items():
        _keep(steps, wish, at.get(url))
    spare = [one for url, one in at.items() if url not in wishes and one.is_chosen]
    if wishes:
        first = next(iter(wishes.values()))
        for one in spare:
            _keep(steps, replace(first, url=one.url), one)
    else:
        steps.remove += [one.id for one in spare]
    return steps


def _keep(steps: Steps, wish: Announcement, there: Listed | None) -> None:
    if there is None:
        steps.create.append(wish)
    elif not there.is_chosen:
        steps.waiting[wish.url] = there.status
    elif not there.agrees_with(wish):
        steps.replace.append((there.id, wish))
    elif there.status != "ready":
        steps.waiting[wish.url] = there.status


# ---- addresses ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PublicAddress:
    """Where the front listens. A wildcard host says only that it is reached at whatever address this machine has."""

    host: str
    port: int
    scheme: str = "http"
    advertise: str | None = None  # what the configuration says instead of all that

    def seen_from(self, host: str) -> str:
        return f"{self.scheme}://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def is_wildcard(self) -> bool:
        return self.host in _LOOPBACK

    @property
    def from_here(self) -> str:
        return self.seen_from(_LOOPBACK.get(self.host, self.host))


def spelled(url: str, number: int) -> str:
    """The same address for everybody who connects to it, and another one for a gateway that compares URLs as text.

    smg knows one model for each URL, so the second model of a container is at ``http://host:08000``.
    """
    if number == 0:
        return url
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    if parts.port is not None and not host.endswith("]"):
        host = host.rpartition(":")[0]
    return urlunsplit(parts._replace(netloc=f"{host}:{'0' * number}{_port(parts)}"))


def lead_to(url: str, listed: Iterable[Listed]) -> list[Listed]:
    """Those that lead where ``url`` does, however they are spelled."""
    here = _place(url)
    return [one for one in listed if _place(one.url) == here]


def _place(url: str) -> tuple[str, int, str] | None:
    """None: nowhere that can be told."""
    try:
        parts = urlsplit(url)
        return (parts.hostname or "").lower(), _port(parts), parts.path.rstrip("/")
    except ValueError:
        return None


def _port(parts: SplitResult) -> int:
    return parts.port if parts.port is not None else _PORTS.get(parts.scheme, 0)
