"""The hub is switched off only where it is not needed, or does not answer and everything is here."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ichat.backends import hub
from ichat.backends.hub_cache import snapshot
from ichat.config.schema import Model
from tests.hub import NOWHERE, put_into_cache

DEMO = Path(__file__).parents[3] / "models" / "demo"
KERNEL = "kernels-community/sgl-flash-attn3"


class FakeHub:
    """Answers every request with one status."""

    def __init__(self) -> None:
        outer, self.status, self.asked = self, 200, 0

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                outer.asked += 1
                self.send_response(outer.status)
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def fake_hub() -> Iterator[FakeHub]:
    server = FakeHub()
    yield server
    server.close()


async def chosen(
    endpoint: str, accelerator: str = "cpu", env: dict[str, str] | None = None, **more: Any
) -> dict[str, str]:
    """What is added to the environment of a worker."""
    model = Model.model_validate({"name": "m", "backend": "vllm", "model_path": str(DEMO)} | more)
    before = {"HF_ENDPOINT": endpoint, "PATH": "/bin", "HF_HUB_CACHE": "/none"} | (env or {})
    environ = dict(before)
    await hub.choose("m/0", model, accelerator, environ)  # type: ignore[arg-type]
    return {name: value for name, value in environ.items() if before.get(name) != value}


OFFLINE = {"HF_HUB_OFFLINE": "1"}


@pytest.mark.parametrize("backend", ["vllm", "sglang"])
async def test_a_directory_that_needs_nothing_is_served_without_a_look_at_the_hub(
    fake_hub: FakeHub, backend: str
) -> None:
    assert await chosen(fake_hub.url, backend=backend) == OFFLINE
    assert fake_hub.asked == 0


async def test_a_mounted_model_leaves_sglang_its_kernels_of_the_hub(fake_hub: FakeHub) -> None:
    assert await chosen(fake_hub.url, "cuda", backend="sglang") == {}
    assert fake_hub.asked == 1


@pytest.mark.parametrize(
    "more", [{"trust_remote_code": True}, {"engine_args": {"speculative-config": {"model": "a/b"}}}]
)
async def test_what_may_come_from_the_hub_beside_a_directory_is_not_cut_off(fake_hub: FakeHub, more: Any) -> None:
    assert await chosen(fake_hub.url, **more) == {}


async def test_without_network_a_mounted_model_starts_offline() -> None:
    assert await chosen(NOWHERE, "cuda", backend="sglang") == OFFLINE


async def test_without_network_a_kernel_in_the_cache_is_shown_to_sglang(tmp_path: Path) -> None:
    path = put_into_cache(DEMO, tmp_path, KERNEL, "kernel")
    (path.parents[1] / "refs" / "main").rename(path.parents[1] / "refs" / "v1")
    found = await chosen(NOWHERE, "cuda", {"HF_HUB_CACHE": str(tmp_path)}, backend="sglang")
    assert found == OFFLINE | {"LOCAL_KERNELS": f"{KERNEL}={snapshot(tmp_path, KERNEL, 'v1', 'kernel')}"}


@pytest.mark.parametrize("backend", ["vllm", "sglang"])
async def test_a_model_that_is_whole_in_the_cache_starts_without_network(tmp_path: Path, backend: str) -> None:
    put_into_cache(DEMO, tmp_path, "ichat/demo")
    env = {"HF_HUB_CACHE": str(tmp_path)}
    assert await chosen(NOWHERE, env=env, backend=backend, model_path="ichat/demo") == OFFLINE


async def test_while_the_hub_answers_a_model_of_the_hub_is_asked_for_there(tmp_path: Path, fake_hub: FakeHub) -> None:
    put_into_cache(DEMO, tmp_path, "ichat/demo")
    assert await chosen(fake_hub.url, env={"HF_HUB_CACHE": str(tmp_path)}, model_path="ichat/demo") == {}


@pytest.mark.parametrize(("status", "is_away"), [(200, False), (401, False), (404, False), (429, True), (503, True)])
async def test_a_hub_that_cannot_serve_is_away(tmp_path: Path, fake_hub: FakeHub, status: int, is_away: bool) -> None:
    put_into_cache(DEMO, tmp_path, "ichat/demo")
    fake_hub.status = status
    found = await chosen(fake_hub.url, env={"HF_HUB_CACHE": str(tmp_path)}, model_path="ichat/demo")
    assert found == (OFFLINE if is_away else {})


async def test_what_is_not_whole_here_is_left_to_the_engine() -> None:
    assert await chosen(NOWHERE, model_path="org/model") == {}


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "VLLM_USE_MODELSCOPE"])
async def test_who_has_decided_is_not_overruled(name: str) -> None:
    assert await chosen(NOWHERE, "cuda", {name: "0"}, backend="sglang") == {}


async def test_a_hub_behind_a_name_that_hangs_costs_five_seconds_at_most() -> None:
    assert "no answer within" in str(await hub.unreachable({"HF_ENDPOINT": "http://127.0.0.1:1"}, limit_s=0.001))
