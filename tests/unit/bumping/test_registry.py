"""The registry is asked for lists and the ends of wheels; a real HTTP server with small wheels answers."""

from __future__ import annotations

import http.server
import io
import json
import threading
import zipfile
from collections.abc import Iterator

import pytest
from packaging.version import Version

from registry import Registry, RegistryError

SENT: list[tuple[str, int]] = []
FILLING = 3_000_000


def wheel_bytes(requires: list[str]) -> bytes:
    """A wheel that is mostly something that nobody asked for."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("kernels.so", b"x" * FILLING)
        lines = [f"Requires-Dist: {each}" for each in requires]
        archive.writestr(
            "a-1.dist-info/METADATA", "\n".join(["Name: a", "Requires-Python: >=3.11", *lines, "", "Text"])
        )
    return held.getvalue()


FILES = {
    "kernel_a-1.0-py3-none-any.whl": wheel_bytes(["torch==2.13.0", "b; extra == 'more'"]),
    "kernel_a-1.1-cp310-abi3-manylinux2014_x86_64.whl": wheel_bytes(["torch==2.14.1", "c; sys_platform == 'win32'"]),
    "kernel_a-1.1-cp310-abi3-manylinux2014_aarch64.whl": b"",
    "kernel_a-1.2-py3-none-any.whl": b"",  # withdrawn
    "kernel_a-1.3-py3-none-win_amd64.whl": b"",
}


class Handler(http.server.BaseHTTPRequestHandler):
    is_json, has_ranges = True, True

    def do_GET(self) -> None:
        if self.path == "/simple/kernel-a/":
            return self._answer(200, *(self._json() if self.is_json else self._html()))
        if (content := FILES.get(self.path.rpartition("/")[2])) is None:
            return self._answer(404, b"", "text/plain")
        wanted = self.headers["Range"].removeprefix("bytes=")
        if not self.has_ranges:
            return self._answer(200, content, "application/octet-stream")
        begin, _, end = wanted.partition("-")
        first, last = (int(begin), int(end)) if begin else (max(0, len(content) - int(end)), len(content) - 1)
        part = content[first : last + 1]
        SENT.append((self.path, len(part)))
        return self._answer(
            206, part, "application/octet-stream", f"bytes {first}-{first + len(part) - 1}/{len(content)}"
        )

    def _json(self) -> tuple[bytes, str]:
        files = [{"filename": name, "url": f"http://{self.headers['Host']}/files/{name}", "yanked": "-1.2-" in name}
                 for name in [*FILES, "kernel_a-1.0.tar.gz"]]  # fmt: skip
        return json.dumps({"files": files}).encode(), "application/vnd.pypi.simple.v1+json"

    def _html(self) -> tuple[bytes, str]:
        rows = (
            f'<a href="../../files/{name}#sha256=0"{" data-yanked" if "-1.2-" in name else ""}>{name}</a>'
            for name in FILES
        )
        return "".join(rows).encode(), "text/html"

    def _answer(self, status: int, body: bytes, kind: str, content_range: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None: ...


@pytest.fixture(params=["json", "html"])
def registry(request: pytest.FixtureRequest) -> Iterator[Registry]:
    handler = type("OneHandler", (Handler,), {"is_json": request.param == "json"})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Registry(f"http://127.0.0.1:{server.server_port}/simple/")
        server.shutdown()


def test_it_knows_the_versions_for_this_platform_that_are_not_withdrawn(registry: Registry) -> None:
    assert registry.versions("kernel-a") == [Version("1.0"), Version("1.1")]


def test_a_package_that_is_not_there_has_no_versions(registry: Registry) -> None:
    assert registry.versions("no-such") == []


def test_what_a_wheel_wants_is_read_without_the_wheel(registry: Registry) -> None:
    SENT.clear()
    wheel = registry.wheel("kernel-a", "1.1")
    assert wheel is not None
    found = registry.metadata(wheel)
    assert str(found.asked("torch")) == "==2.14.1"
    assert found.asked("c") is None, "it is for another platform"
    assert str(found.python) == ">=3.11"
    assert sum(size for _, size in SENT) < FILLING / 8


def test_the_size_on_the_disk_is_read_from_the_table_of_contents(registry: Registry) -> None:
    wheel = registry.wheel("kernel-a", "1.0")
    assert wheel is not None
    assert FILLING < registry.size_bytes(wheel) < FILLING + 1000


def test_a_registry_without_ranges_is_told_as_such() -> None:
    handler = type("WholeFiles", (Handler,), {"has_ranges": False})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        asked = Registry(f"http://127.0.0.1:{server.server_port}/simple")
        wheel = asked.wheel("kernel-a", "1.0")
        assert wheel is not None
        with pytest.raises(RegistryError, match="sends whole files only"):
            asked.metadata(wheel)
        server.shutdown()


def test_a_registry_that_cannot_be_reached_is_told_with_its_address() -> None:
    with pytest.raises(RegistryError, match=r"http://127\.0\.0\.1:9/simple/vllm/: .*Check the index-url"):
        Registry("http://127.0.0.1:9/simple").versions("vllm")
