"""The gateway's worker API over HTTP: smg's ``/workers``. Whatever goes wrong with it is a GatewayError."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ichat.config.schema import Gateway
from ichat.errors import TemporaryError
from ichat.launcher.announcement import Listed
from ichat.launcher.aside import Aside

if TYPE_CHECKING:
    import aiohttp

#: Some ten thousand workers. What is longer is no list of workers.
_LONGEST_ANSWER_BYTES = 8 * 1024 * 1024
_WORDS_SHOWN = 200
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class GatewayError(Exception):
    """Why the gateway did not do what it was asked. ``kind`` is the same for the same trouble, whatever the words."""

    def __init__(self, kind: str, words: str) -> None:
        super().__init__(words)
        self.kind = kind


class GatewayApi:
    """A connection for each call: one that is kept would be found dead after each restart of the gateway."""

    def __init__(self, gateway: Gateway, limit_s: float) -> None:
        if gateway.address is None:
            raise ValueError("gateway.address is not set")
        self.name = gateway.address.rstrip("/")
        self.limit_s = limit_s
        self._key = gateway.api_key
        self._names = Aside("looking up the gateway's name")

    async def workers(self) -> list[Listed]:
        answer = await self._call("GET", "/workers")
        workers = answer.get("workers") if isinstance(answer, dict) else None
        if not isinstance(workers, list):
            raise GatewayError("nonsense", "its answer to GET /workers is no list of workers")
        return list(_read(workers))

    async def create(self, spec: dict[str, Any]) -> None:
        """Ask for it; whether it has happened is seen in ``workers()``. 409: it is there, or being made."""
        await self._call("POST", "/workers", spec, also=(409,))

    async def replace(self, worker: str, spec: dict[str, Any]) -> None:
        await self._call("PUT", f"/workers/{worker}", spec, also=(404, 409))

    async def remove(self, worker: str) -> None:
        await self._call("DELETE", f"/workers/{worker}", also=(404,))

    async def local_address(self) -> str:
        """The address of this machine that a connection to the gateway would come from. Nothing is sent."""
        parts = urlsplit(self.name)
        port = parts.port or {"https": 443}.get(parts.scheme, 80)
        try:
            async with asyncio.timeout(self.limit_s):
                return await self._names.run(lambda: _address_towards(parts.hostname or "", port))
        except (OSError, TimeoutError, UnicodeError, TemporaryError) as error:
            raise GatewayError("away", f"cannot be found ({error or 'no answer in time'})") from None

    async def is_green(self, url: str) -> bool:
        """Whether our own front says that it is ready; its certificate is for other names than the one we use."""
        import aiohttp

        try:
            async with (
                aiohttp.ClientSession(trust_env=False, timeout=aiohttp.ClientTimeout(total=self.limit_s)) as session,
                session.get(f"{url}/health", ssl=False, allow_redirects=False) as answer,
            ):
                return answer.status == 200
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError):
            return False

    # ---- one call ---------------------------------------------------------------------------------------------

    async def _call(
        self, method: str, path: str, body: dict[str, Any] | None = None, also: tuple[int, ...] = ()
    ) -> Any:
        import aiohttp  # a sixth of a second that only who has a gateway pays

        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key.get_secret_value()}"
        session = aiohttp.ClientSession(
            # No proxy of the environment, which is meant for others.
            trust_env=False,
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=self.limit_s),
            connector=aiohttp.TCPConnector(force_close=True, resolver=_resolver(self._names)),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        try:
            async with (
                session,
                session.request(method, self.name + path, json=body, headers=headers, allow_redirects=False) as answer,
            ):
                return _understood(answer, await _content(answer), also)
        except TimeoutError:
            raise GatewayError("away", f"has not answered within {self.limit_s:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise GatewayError("away", f"does not answer ({_short(str(error) or type(error).__name__)})") from None


async def _content(answer: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    async for part in answer.content.iter_any():
        content += part
        if len(content) > _LONGEST_ANSWER_BYTES:
            raise GatewayError("nonsense", f"answers more than {_LONGEST_ANSWER_BYTES} bytes")
    return bytes(content)


def _understood(answer: aiohttp.ClientResponse, content: bytes, also: tuple[int, ...]) -> Any:
    status = answer.status
    if status in (401, 403):
        raise GatewayError(
            "refused", f"refuses our key ({status}). Set gateway.api_key to one that may register workers"
        )
    if 300 <= status < 400:
        where = _short(answer.headers.get("Location", "nowhere"))
        raise GatewayError(
            "redirect", f"redirects to {where}, which is not followed. Set gateway.address to where it is"
        )
    if status >= 500:
        raise GatewayError("away", f"answers {status}: {_short(content.decode(errors='replace'))}")
    if status not in (200, 201, 202, 204, *also):
        raise GatewayError(f"status {status}", f"answers {status}: {_short(content.decode(errors='replace'))}")
    try:
        return json.loads(content) if content else None
    except (ValueError, RecursionError):
        raise GatewayError("nonsense", f"answers no JSON: {_short(content.decode(errors='replace'))}") from None


def _short(words: str) -> str:
    shown = "".join(letter if letter.isprintable() else " " for letter in words[: _WORDS_SHOWN + 1])
    return shown if len(shown) <= _WORDS_SHOWN else shown[:_WORDS_SHOWN] + "…"


def _read(workers: list[Any]) -> Iterator[Listed]:
    """Those that are what smg describes; an id becomes part of a path, so it must look like one."""
    for one in workers:
        if not isinstance(one, dict):
            continue
        worker, url, labels = one.get("id"), one.get("url"), one.get("labels", {})
        if isinstance(worker, str) and _ID.fullmatch(worker) and isinstance(url, str) and isinstance(labels, dict):
            yield Listed(worker, url, str(one.get("status")), {str(key): str(value) for key, value in labels.items()})


# ---- names ----------------------------------------------------------------------------------------------------


def _resolver(names: Aside) -> aiohttp.abc.AbstractResolver:
    from aiohttp.abc import AbstractResolver, ResolveResult

    class Resolver(AbstractResolver):
        """aiohttp's own asks in a thread that an exit waits for, as long as the name servers like."""

        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
        ) -> list[ResolveResult]:
            try:
                found = await names.run(lambda: _looked_up(host, port, family))
            except TemporaryError as error:  # an OSError is what aiohttp expects
                raise OSError(str(error)) from None
            return [
                ResolveResult(
                    hostname=host,
                    host=str(at[0]),
                    port=int(at[1]),
                    family=kind,
                    proto=proto,
                    flags=socket.AI_NUMERICHOST,
                )
                for kind, _, proto, _, at in found
            ]

        async def close(self) -> None:
            """It holds nothing."""

    return Resolver()


def _looked_up(host: str, port: int, family: socket.AddressFamily) -> list[Any]:
    try:
        return socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
    except UnicodeError as error:  # no name can be like that
        raise OSError(str(error)) from None


def _address_towards(host: str, port: int) -> str:
    for family, kind, proto, _, at in socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM):
        with socket.socket(family, kind, proto) as sock:
            try:
                sock.connect(at)
            except OSError:
                continue
            return str(sock.getsockname()[0])
    raise OSError(f"no way leads to {host}")
