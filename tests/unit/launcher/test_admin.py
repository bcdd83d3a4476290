"""Who may speak to the admin port, and how its requests and answers look on the wire."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator

import pytest

from ichat.config.schema import Admin, Timeouts
from ichat.launcher import listeners
from ichat.launcher.admin import BODY_LIMIT_BYTES, AdminPort
from tests.unit.launcher.fake_controls import FakeControls

TOKEN = "a token only for this test"
RIGHT = f"Authorization: Bearer {TOKEN}\r\n"
MUTATIONS = ["/admin/reload", "/admin/log_level", *(f"/admin/models/qwen/{action}" for action in ("restart", "drain", "sleep", "update_weights"))]  # fmt: skip


class Bench:
    def __init__(self, port: int, controls: FakeControls, admin: AdminPort) -> None:
        self.port, self.controls, self.admin = port, controls, admin

    async def send(self, raw: bytes) -> bytes:
        """Everything that comes back until the connection is closed."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(raw)
            return await asyncio.wait_for(reader.read(), 10)
        finally:
            writer.close()

    async def ask(
        self, method: str, path: str, headers: str = RIGHT, body: str = ""
    ) -> tuple[int, str, dict[str, object]]:
        """(status, head, JSON)."""
        more = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
        raw = await self.send(f"{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}{more}\r\n{body}".encode())
        head, _, rest = raw.partition(b"\r\n\r\n")
        return int(head.split()[1]), head.decode().lower(), json.loads(rest) if rest else {}


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    controls = FakeControls()
    sockets = listeners.listen(Admin(port=0))
    admin = AdminPort(sockets, TOKEN, controls, Timeouts(receive_headers_s=0.3, receive_body_s=0.3))
    await admin.open()
    try:
        yield Bench(sockets[0].getsockname()[1], controls, admin)
    finally:
        await admin.close()
        await admin.close()
        for sock in sockets:
            sock.close()


async def test_it_listens_on_loopback_unless_told_otherwise(bench: Bench) -> None:
    assert Admin().host == "127.0.0.1"


async def test_the_token_opens_it(bench: Bench) -> None:
    status, head, body = await bench.ask("GET", "/admin/status")
    assert (status, body) == (200, bench.controls.status())
    assert "cache-control: no-store" in head
    assert "content-type: application/json" in head
    assert "access-control" not in head
    assert "connection: close" in head


async def test_the_scheme_may_be_written_small(bench: Bench) -> None:
    assert (await bench.ask("GET", "/admin", f"authorization: bearer {TOKEN}\r\n"))[0] == 200


async def test_a_command_goes_the_whole_way(bench: Bench) -> None:
    status, _, body = await bench.ask("POST", "/admin/models/qwen/sleep", body='{"level": 2}')
    assert status == 200
    assert body["instances"] == [{"instance": name, "status": 200, "state": "ready"} for name in ("qwen/0", "qwen/1")]
    assert bench.controls.told == [("command", "qwen", ["qwen/0", "qwen/1"], "sleep", {"level": 2})]


@pytest.mark.parametrize("headers", [
    "", "Authorization: Bearer\r\n", "Authorization: Bearer \r\n", f"Authorization: {TOKEN}\r\n", f"Authorization: Basic {TOKEN}\r\n",
    f"Authorization: Bearer {TOKEN}x\r\n", f"Authorization: Bearer {TOKEN[:-1]}\r\n", f"Authorization: Bearer {TOKEN.upper()}\r\n",
    f"Authorization: Bearer  {TOKEN}\r\n", f"X-Authorization: Bearer {TOKEN}\r\n", f"Proxy-Authorization: Bearer {TOKEN}\r\n",
    f"Cookie: token={TOKEN}\r\n", f"X-Api-Key: {TOKEN}\r\n", f"{RIGHT}{RIGHT}", f"Authorization: Bearer x\r\n{RIGHT}",
])  # fmt: skip
async def test_whoever_lacks_the_token_gets_one_constant_answer(bench: Bench, headers: str) -> None:
    answers = {
        json.dumps((await bench.ask(method, path, headers))[::2])
        for method, path in (
            ("GET", "/admin"),
            ("POST", "/admin/reload"),
            ("GET", "/nowhere"),
            ("DELETE", "/admin/status"),
        )
    }
    assert len(answers) == 1
    status, body = json.loads(answers.pop())
    assert (status, body["error"]["code"]) == (401, "invalid_token")
    assert bench.controls.told == []


@pytest.mark.parametrize("count", [600, pytest.param(10_000, marks=pytest.mark.volume)])
async def test_no_spelling_of_a_request_gets_round_the_token(bench: Bench, count: int) -> None:
    """FAULTS.md X2: Host, path, method, version, header names and doubled headers, in every mixture."""
    rng = random.Random(count)
    refused = 0
    for _ in range(count):
        raw = _mutation(rng)
        answer = await bench.send(raw)
        assert not answer or answer.split()[1] in (b"400", b"401", b"403", b"413", b"431", b"501"), (raw, answer)
        refused += answer.split()[1:2] == [b"401"]
    assert bench.controls.told == []
    assert refused > count / 3, "a fuzz that is never understood would prove nothing"


def _mutation(rng: random.Random) -> bytes:
    path = rng.choice(MUTATIONS)
    path = rng.choice([path, f"/{path}", path.replace("/", "//"), path.replace("admin", "%61dmin"), path.upper(), f"/x/..{path}",
                       f"{path}/", f"{path}?x=1", f"{path}#x", f"http://127.0.0.1{path}", f"{path};x", path.replace("/", "%2f")])  # fmt: skip
    method = rng.choice(["POST", "POST", "post", "PUT", "OPTIONS", "CONNECT", "PATCH", "X-POST"])
    host = rng.choice(["x", "localhost", "127.0.0.1", "x/admin/status?y=", "", "admin:8001", "[::1]"])
    token = rng.choice(["", f"Authorization: Bearer {TOKEN}1", "Authorization: Bearer null", "Authorization:", "Authorization: Bearer a, Bearer b",
                        f"Authorization : Bearer {TOKEN}", f"Authorization: Bearer {TOKEN}\x00", f"Authorization: Bearer\t{TOKEN}x",
                        f"X: y\r\n Authorization: Bearer {TOKEN}", f"Authorization_: Bearer {TOKEN}", "X-Forwarded-For: 127.0.0.1",
                        f"Authorization: Bearer {TOKEN}\r\nAuthorization: Bearer x"])  # fmt: skip
    version = rng.choice(["1.1", "1.1", "1.0", "2.0"])
    body = '{"level": "debug"}'
    return (
        f"{method} {path} HTTP/{version}\r\nHost: {host}\r\n{token}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
    ).encode()


@pytest.mark.parametrize("header", ["Origin: http://127.0.0.1:8001", "Origin: null", "Sec-Fetch-Mode: navigate"])
async def test_web_pages_are_refused_even_with_the_token(bench: Bench, header: str) -> None:
    status, head, body = await bench.ask("POST", "/admin/reload", f"{RIGHT}{header}\r\n")
    assert (status, body["error"]["code"]) == (403, "browser_refused")  # type: ignore[index]
    assert "access-control" not in head
    status, head, _ = await bench.ask(
        "OPTIONS", "/admin/reload", f"{header}\r\nAccess-Control-Request-Method: POST\r\n"
    )
    assert status == 403
    assert "access-control" not in head
    assert bench.controls.told == []


async def test_a_body_has_a_limit_told_before_it_is_read(bench: Bench) -> None:
    head = f"POST /admin/reload HTTP/1.1\r\nHost: x\r\n{RIGHT}Content-Type: application/json\r\n"
    answer = await bench.send(f"{head}Content-Length: {BODY_LIMIT_BYTES + 1}\r\n\r\n".encode())
    assert answer.split()[1] == b"413"
    chunk = b"8000\r\n" + b" " * 0x8000 + b"\r\n"
    answer = await bench.send(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunk * 3)
    assert answer.split()[1] == b"413"
    body = json.dumps({"level": "x" * (BODY_LIMIT_BYTES - 20)})
    assert (await bench.ask("POST", "/admin/log_level", body=body))[0] == 200
    assert bench.controls.told == []


async def test_a_body_is_json_as_it_is(bench: Bench) -> None:
    for headers, status in (
        ("Content-Type: text/plain\r\n", 415),
        ("Content-Type: application/json\r\nContent-Encoding: gzip\r\n", 415),
    ):
        raw = f"POST /admin/reload HTTP/1.1\r\nHost: x\r\n{RIGHT}{headers}Content-Length: 2\r\n\r\n{{}}"
        assert int((await bench.send(raw.encode())).split()[1]) == status
    assert bench.controls.told == []


async def test_who_says_nothing_or_not_all_is_cut_off(bench: Bench) -> None:
    began = time.monotonic()
    assert await bench.send(b"") == b""
    assert await bench.send(b"GET /admin/status HTTP/1.1\r\nHost:") == b""
    head = (
        f"POST /admin/reload HTTP/1.1\r\nHost: x\r\n{RIGHT}Content-Type: application/json\r\nContent-Length: 9\r\n\r\n"
    )
    assert (await bench.send(head.encode() + b"{")).split()[1] == b"408"
    assert time.monotonic() - began < 5


async def test_many_silent_connections_do_not_add_up(bench: Bench) -> None:
    silent = [await asyncio.open_connection("127.0.0.1", bench.port) for _ in range(80)]
    await asyncio.sleep(0.8)
    assert (await bench.ask("GET", "/admin/status"))[0] == 200
    for _, writer in silent:
        writer.close()


async def test_what_goes_wrong_inside_is_told_without_its_inside(bench: Bench) -> None:
    bench.controls.raises["reload"] = ZeroDivisionError("secret of the code")
    status, _, body = await bench.ask("POST", "/admin/reload")
    assert status == 500
    assert "secret" not in json.dumps(body)


async def test_the_loop_turns_while_a_long_request_is_at_work_and_a_close_ends_it(bench: Bench) -> None:
    bench.controls.takes_s["reload"] = 3600
    asking = asyncio.create_task(bench.ask("POST", "/admin/reload"))
    while not bench.controls.told:
        await asyncio.sleep(0.01)
    assert (await bench.ask("GET", "/admin/status"))[0] == 200
    began = time.monotonic()
    await bench.admin.close()
    assert time.monotonic() - began < 2
    assert (await asking)[0] == 503
    assert bench.controls.finished == []
