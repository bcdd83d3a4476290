"""With keys configured only their owners get through, whatever else the request looks like."""

import random
from collections.abc import AsyncIterator

import pytest

from tests.unit.front.raw_client import BODY, CHAT, request
from tests.unit.front.running_front import FrontUnderTest, running_front
from tests.unit.front.scripted_worker import ScriptedWorker

KEY = "sk-secret-1"


@pytest.fixture
async def locked(worker: ScriptedWorker) -> AsyncIterator[FrontUnderTest]:
    async with running_front(worker, api_keys=[KEY, "sk-secret-2"]) as front:
        yield front


@pytest.mark.parametrize("key", [KEY, "sk-secret-2"])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_a_key_opens(locked: FrontUnderTest, worker: ScriptedWorker, key: str, scheme: str) -> None:
    assert (await locked.ask(request(headers=f"Authorization: {scheme} {key}\r\n"))).status == 200
    assert worker.seen[0].header("authorization") == f"{scheme} {key}"


async def test_a_browser_may_ask_whether_it_may_ask(locked: FrontUnderTest, worker: ScriptedWorker) -> None:
    preflight = "Origin: http://a.page\r\nAccess-Control-Request-Method: POST\r\n"
    assert (await locked.ask(request("OPTIONS", CHAT, None, headers=preflight))).status == 204
    assert worker.seen == []


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Authorization: Bearer\r\n",
        "Authorization: Bearer \r\n",
        f"Authorization: {KEY}\r\n",
        f"Authorization: Basic {KEY}\r\n",
        f"Authorization: Bearer {KEY}x\r\n",
        f"Authorization: Bearer {KEY[:-1]}\r\n",
        f"Authorization: Bearer {KEY.upper()}\r\n",
        f"x-api-key: {KEY}\r\n",
        f"Authorization: Bearer {KEY}\r\nAuthorization: Bearer {KEY}\r\n",
        f"Authorization: Basic x\r\nAuthorization: Bearer {KEY}\r\n",
    ],
)
async def test_anything_else_does_not(locked: FrontUnderTest, worker: ScriptedWorker, header: str) -> None:
    response = await locked.ask(request(headers=header))
    assert (response.status, response.code) == (401, "invalid_api_key")
    assert response.header("www-authenticate") == "Bearer"
    assert KEY not in response.body.decode()
    assert worker.seen == []


async def test_the_messages_api_has_its_own_header(locked: FrontUnderTest) -> None:
    assert (await locked.ask(request(target="/v1/messages", headers=f"x-api-key: {KEY}\r\n"))).status == 200
    refused = await locked.ask(request(target="/v1/messages", headers="x-api-key: wrong\r\n"))
    assert refused.status == 401
    assert (refused.json()["type"], refused.json()["error"]["type"]) == ("error", "authentication_error")


async def test_a_bearer_of_ours_counts_beside_a_key_for_somebody_else(
    locked: FrontUnderTest, worker: ScriptedWorker
) -> None:
    """As Claude Code sends them."""
    headers = f"Authorization: Bearer {KEY}\r\nx-api-key: sk-ant-other\r\n"
    assert (await locked.ask(request(target="/v1/messages", headers=headers))).status == 200
    assert worker.seen[0].header("x-api-key") is None
    headers = f"Authorization: Bearer wrong\r\nx-api-key: {KEY}\r\n"
    refused = await locked.ask(request(target="/v1/messages", headers=headers))
    assert refused.status == 401
    assert "x-api-key" in refused.json()["error"]["message"]


async def test_the_messages_apis_header_opens_the_list_of_models(locked: FrontUnderTest) -> None:
    assert (await locked.get("/v1/models", f"x-api-key: {KEY}\r\n")).status == 200
    assert (await locked.get("/v1/models/demo", f"x-api-key: {KEY}\r\n")).status == 200


async def test_probes_and_metrics_are_open_and_the_list_of_models_is_not(locked: FrontUnderTest) -> None:
    for target in ("/livez", "/readyz", "/startupz", "/health", "/ping", "/metrics", "/v1/health/live"):
        assert (await locked.get(target)).status == 200
    assert (await locked.get("/v1/models")).status == 401
    assert (await locked.get("/v1/models", f"Authorization: Bearer {KEY}\r\n")).status == 200


async def test_a_refused_upload_is_not_read(locked: FrontUnderTest) -> None:
    response = await locked.ask(request(body=None, headers="Content-Length: 5000000\r\n"))
    assert (response.status, response.header("connection")) == (401, "close")


async def test_no_mutation_of_a_request_gets_past_the_key(locked: FrontUnderTest, worker: ScriptedWorker) -> None:
    """Paths, methods, hosts, versions and headers bent at random: a probe's answer, a refusal, never a worker's."""
    chance = random.Random(7)
    paths = ["/v1/chat/completions", "/health", "/v1/models", "/generate", "/metrics", "/livez"]
    bends = [
        "/",
        "//",
        "/..",
        "/.",
        "%2f",
        "%2e%2e/",
        "?",
        "#",
        ";",
        "\\",
        "/health",
        "@",
        ":",
        "%00",
        "%20",
        "&a=/health",
    ]
    hosts = ["front", "front/health?x=", "front:80", "", "front#", "health", "[::1]", "front, front"]
    methods = ["GET", "POST", "PUT", "HEAD", "PATCH", "DELETE", "post", "TRACE"]
    allowed = {200, 400, 401, 405}
    for _ in range(1500):
        path = chance.choice(paths)
        for _ in range(chance.randrange(3)):
            place = chance.randrange(len(path) + 1)
            path = path[:place] + chance.choice(bends) + path[place:]
        if chance.random() < 0.2:
            path = path.swapcase()
        method, host = chance.choice(methods), chance.choice(hosts)
        raw = f"{method} {path} HTTP/1.{chance.randrange(2)}\r\nHost: {host}\r\nContent-Length: {len(BODY)}\r\n\r\n"
        client = await locked.connect()
        await client.send(raw.encode() + BODY)
        head = await client.reader.readuntil(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        assert status in allowed, raw
        if status == 200:
            assert path.partition("?")[0] in ("/", "/health", "/livez", "/metrics"), raw
        client.close()
    assert {seen.target for seen in worker.seen} <= {"/metrics"}
    assert CHAT not in {seen.target for seen in worker.seen}
