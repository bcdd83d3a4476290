"""The gateway's worker API over a real connection, with a gateway that answers whatever a test wants."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web

from ichat.config.schema import Gateway
from ichat.launcher.announcement import Listed
from ichat.launcher.gateway_api import GatewayApi, GatewayError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
KEY = "s3cr3t-k3y"


class Server:
    def __init__(self) -> None:
        self.requests: list[tuple[str, str, str | None, object]] = []
        self.handler: Handler | None = None
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.text()
        self.requests.append(
            (request.method, request.path, request.headers.get("Authorization"), json.loads(body) if body else None)
        )
        assert self.handler is not None
        return await self.handler(request)

    def answers(self, body: object = None, status: int = 200, **headers: str) -> None:
        async def answer(_: web.Request) -> web.Response:
            text = body if isinstance(body, bytes) else json.dumps(body).encode()
            return web.Response(body=text, status=status, headers=headers)

        self.handler = answer

    def api(self, *, limit_s: float = 5, key: str | None = KEY) -> GatewayApi:
        return GatewayApi(Gateway.model_validate({"address": self.url, "api_key": key}), limit_s)


@pytest.fixture
async def servers() -> AsyncIterator[Callable[[], Awaitable[Server]]]:
    runners = []

    async def start() -> Server:
        server = Server()
        runner = web.ServerRunner(web.Server(server.handle, handler_cancellation=True), shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        runners.append(runner)
        host, port = runner.addresses[0]
        server.url = f"http://{host}:{port}"
        return server

    yield start
    for runner in runners:
        await runner.cleanup()


@pytest.fixture
async def gateway(servers: Callable[[], Awaitable[Server]]) -> Server:
    return await servers()


async def trouble(call: Awaitable[object]) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        await call
    assert KEY not in str(caught.value)
    return caught.value


# ---- what is said ---------------------------------------------------------------------------------------------


async def test_each_call_is_the_one_of_smgs_worker_api_with_our_key(gateway: Server) -> None:
    gateway.answers({"workers": []})
    api = gateway.api()
    await api.workers()
    await api.create({"url": "http://a:1"})
    await api.replace("id-1", {"url": "http://a:1"})
    await api.remove("id-1")
    bearer = f"Bearer {KEY}"
    assert gateway.requests == [
        ("GET", "/workers", bearer, None),
        ("POST", "/workers", bearer, {"url": "http://a:1"}),
        ("PUT", "/workers/id-1", bearer, {"url": "http://a:1"}),
        ("DELETE", "/workers/id-1", bearer, None),
    ]


async def test_without_a_key_none_is_sent(gateway: Server) -> None:
    gateway.answers({"workers": []})
    await gateway.api(key=None).workers()
    assert gateway.requests == [("GET", "/workers", None, None)]


async def test_workers_are_read_as_smg_lists_them(gateway: Server) -> None:
    one = {"id": "01a2-b3", "url": "http://a:1", "status": "ready", "labels": {"ichat.incarnation": "x"}, "load": 3}
    gateway.answers({"workers": [one, {"id": "2", "url": "http://b:1"}], "total": 2})
    assert await gateway.api().workers() == [
        Listed("01a2-b3", "http://a:1", "ready", {"ichat.incarnation": "x"}),
        Listed("2", "http://b:1", "None", {}),
    ]


async def test_what_is_no_worker_is_passed_over(gateway: Server) -> None:
    odd: list[object] = [
        None,
        3,
        {"id": 7, "url": "u"},
        {"id": "a/../b", "url": "u"},
        {"id": "x", "url": "u", "labels": 1},
    ]
    gateway.answers({"workers": odd})
    assert await gateway.api().workers() == []


async def test_being_there_already_and_being_gone_already_are_no_trouble(gateway: Server) -> None:
    gateway.answers({"error": "Worker already exists"}, status=409)
    await gateway.api().create({})
    gateway.answers({"error": "Worker not found"}, status=404)
    await gateway.api().remove("x")
    await gateway.api().replace("x", {})


# ---- trouble --------------------------------------------------------------------------------------------------


async def test_a_gateway_that_is_not_there_is_away() -> None:
    api = GatewayApi(Gateway(address="http://127.0.0.1:9"), 5)
    assert (await trouble(api.workers())).kind == "away"


async def test_a_name_that_nobody_knows_is_away() -> None:
    api = GatewayApi(Gateway(address="http://no-such-router.invalid:30000"), 5)
    assert (await trouble(api.workers())).kind == "away"
    assert (await trouble(api.local_address())).kind == "away"


async def test_a_gateway_that_says_nothing_costs_the_limit_and_no_more(gateway: Server) -> None:
    async def hang(_: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    gateway.handler = hang
    began = time.monotonic()
    error = await trouble(gateway.api(limit_s=0.2).workers())
    assert error.kind == "away"
    assert time.monotonic() - began < 2


async def test_a_gateway_that_answers_byte_by_byte_costs_the_limit_and_no_more(gateway: Server) -> None:
    async def drip(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:
            await answer.write(b" ")
            await asyncio.sleep(0.01)

    gateway.handler = drip
    began = time.monotonic()
    assert (await trouble(gateway.api(limit_s=0.3).workers())).kind == "away"
    assert time.monotonic() - began < 2


async def test_an_answer_without_end_is_not_read_to_its_end(gateway: Server) -> None:
    async def flood(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:
            await answer.write(b"x" * 65536)

    gateway.handler = flood
    assert (await trouble(gateway.api().workers())).kind == "nonsense"


async def test_a_compressed_answer_is_not_unpacked(gateway: Server) -> None:
    gateway.answers(gzip.compress(b" " * 50_000_000), **{"Content-Encoding": "gzip"})
    assert (await trouble(gateway.api().workers())).kind == "nonsense"


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"[" * 100_000, b'{"workers": 3}', b"\xff\xfe", b"null"])
async def test_an_answer_that_makes_no_sense_is_nonsense(gateway: Server, body: bytes) -> None:
    gateway.answers(body)
    assert (await trouble(gateway.api().workers())).kind == "nonsense"


@pytest.mark.parametrize("status", [500, 502, 503])
async def test_a_gateway_with_an_error_of_its_own_is_away(gateway: Server, status: int) -> None:
    gateway.answers(b"oh\x1b[31m no", status=status)
    error = await trouble(gateway.api().workers())
    assert (error.kind, str(error)) == ("away", f"answers {status}: oh [31m no")


@pytest.mark.parametrize("status", [401, 403])
async def test_a_wrong_key_is_told_with_the_setting_that_holds_it(gateway: Server, status: int) -> None:
    gateway.answers(b"Invalid authentication token", status=status)
    error = await trouble(gateway.api().workers())
    assert error.kind == "refused"
    assert f"refuses our key ({status}). Set gateway.api_key" in str(error)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed_so_that_our_key_goes_nowhere_else(
    servers: Callable[[], Awaitable[Server]], status: int
) -> None:
    gateway, elsewhere = await servers(), await servers()
    gateway.answers(None, status=status, Location=f"{elsewhere.url}/workers")
    elsewhere.answers({"workers": []})
    error = await trouble(gateway.api().workers())
    assert error.kind == "redirect"
    assert elsewhere.url in str(error)
    assert elsewhere.requests == []


async def test_a_refusal_is_told_in_the_gateways_words_but_not_at_any_length(gateway: Server) -> None:
    gateway.answers(b"models[0]: missing field id " + b"x" * 10_000, status=400)
    error = await trouble(gateway.api().create({}))
    assert error.kind == "status 400"
    assert "models[0]: missing field id" in str(error)
    assert len(str(error)) < 300


async def test_the_proxies_of_the_environment_are_for_others(
    servers: Callable[[], Awaitable[Server]], monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway, proxy = await servers(), await servers()
    gateway.answers({"workers": []})
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url)
    monkeypatch.setenv("no_proxy", "")
    await gateway.api().workers()
    assert proxy.requests == []
    assert len(gateway.requests) == 1


# ---- where we are ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["http://127.0.0.1:30000", "https://localhost"])
async def test_our_address_is_the_one_by_which_the_gateway_would_be_reached(address: str) -> None:
    assert await GatewayApi(Gateway(address=address), 5).local_address() in ("127.0.0.1", "::1")


@pytest.mark.parametrize(("status", "is_green"), [(200, True), (503, False), (302, False)])
async def test_our_own_front_is_asked_without_the_gateways_key(gateway: Server, status: int, is_green: bool) -> None:
    gateway.answers(None, status=status, Location="/elsewhere")
    api = GatewayApi(Gateway.model_validate({"address": "http://127.0.0.1:9", "api_key": KEY}), 5)
    assert await api.is_green(gateway.url) is is_green
    assert gateway.requests == [("GET", "/health", None, None)]


async def test_a_front_that_is_not_there_is_not_green() -> None:
    assert not await GatewayApi(Gateway(address="http://127.0.0.1:9"), 5).is_green("http://127.0.0.1:9")
