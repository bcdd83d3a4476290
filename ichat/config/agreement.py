"""What does not go together in the sections beside the models: ports, TLS files, the addresses of a gateway."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ichat.config.schema import Admin, Gateway, Server
from ichat.config.values import Given
from ichat.errors import Problem

#: By dotted path: where a setting was given.
Givens = Mapping[str, Given]


def disagreements(server: Server, admin: Admin, gateway: Gateway, givens: Givens) -> Iterator[Problem]:
    yield from _tls(server, givens)
    if admin.token is not None and admin.port == server.port != 0:
        yield _same_port(server.port, givens)
    for name in ("address", "advertise"):
        if (url := getattr(gateway, name)) is not None and (wrong := wrong_url(url)):
            yield givens[f"gateway.{name}"].problem(wrong)


def without_slashes(gateway: Gateway) -> Gateway:
    """Its URLs as they begin every other one."""
    urls = {"address": gateway.address, "advertise": gateway.advertise}
    return gateway.model_copy(update={name: url.rstrip("/") for name, url in urls.items() if url is not None})


def _tls(server: Server, givens: Givens) -> Iterator[Problem]:
    names = {"tls_cert_file": "tls_key_file", "tls_key_file": "tls_cert_file"}
    for name, other in names.items():
        if getattr(server, name) is not None and getattr(server, other) is None:
            message = f"needs {other} beside it. Set both, or neither."
            yield givens[f"server.{name}"].problem(message, "E-CFG-CONFLICT")


def _same_port(port: int, givens: Givens) -> Problem:
    """At the place of whichever was given; one of them was, since the defaults differ."""
    public, admin = givens.get("server.port"), givens.get("admin.port")
    place = public.place if public else "its default"
    if admin is not None:
        message = f"{port} is the public port too ({place}). Choose another."
        return admin.problem(message, "E-CFG-CONFLICT")
    assert public is not None
    return public.problem(f"{port} is the admin port too (its default). Choose another.", "E-CFG-CONFLICT")


def wrong_url(url: str) -> str | None:
    """What is wrong with the URL of a server; credentials in it are not shown."""
    from urllib.parse import urlsplit  # only who has a gateway pays for it

    shown = "an address with credentials" if "@" in url else f'"{url}"'
    expected = f"expected http://host:port or https://host:port, found {shown}."
    try:
        parts = urlsplit(url)
        is_plain = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        return expected
    if not is_plain or "@" in url or parts.path not in {"", "/"} or any(sign in url for sign in "?# "):
        return expected
    return None
