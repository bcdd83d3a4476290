"""The command line and the entrypoint, as a user types them."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ichat import cli
from ichat.errors import ExitCode

ROOT = Path(__file__).resolve().parents[2]


def run(*argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ICHAT_")}
    return subprocess.run(
        [sys.executable, "-m", "ichat", *argv], env=kept | env, capture_output=True, text=True, check=False, timeout=30
    )


@pytest.mark.parametrize("argv", [["help"], ["--help"], ["serve", "--help"], ["-h"]])
def test_help_names_every_command(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(argv) == 0
    said = capsys.readouterr().out
    for command in ("serve", "config", "explain", "warm", "health", "status", "version", "help"):
        assert f"\n  {command} " in said


def test_version_names_the_engines_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["version"]) == 0
    assert capsys.readouterr().out == "ichat 0.1.0 (for vLLM 0.32.0, SGLang 0.5.21)\n"


def test_explain_tells_of_every_model_or_of_the_one_that_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "configs.yaml"
    path.write_text("models: {a: {model_path: org/a}, b: {model_path: org/b, backend: sglang}}\n")
    assert cli.run(["explain", "--config", str(path)]) == 0
    both = capfd.readouterr().out
    assert "a on vLLM 0.32.0" in both
    assert "b on SGLang 0.5.21" in both
    assert cli.run(["explain", "b", "--config", str(path)]) == 0
    one = capfd.readouterr().out
    assert "org/a" not in one
    assert one.strip() in both
    assert cli.run(["explain", "c", "--config", str(path)]) == ExitCode.USAGE
    assert 'explain: there is no model "c". There is a, b.' in capfd.readouterr().err


def test_an_unknown_command_is_64_in_one_line() -> None:
    done = run("sevre")
    assert done.returncode == 64
    assert done.stderr == 'ichat: error[E-USAGE] ichat: there is no command "sevre". `ichat help` lists them.\n'


def test_every_problem_of_a_configuration_is_a_line_and_no_traceback() -> None:
    done = run("serve", "--backend", "vllm", "--model-path", "org/model", "--no-such-flag", ICHAT_PORT="soon")
    assert done.returncode == 78
    assert len(done.stderr.splitlines()) == 2
    assert all(line.startswith("ichat: error[E-CFG-") for line in done.stderr.splitlines())


def test_debug_adds_the_traceback_and_the_line_stays_last() -> None:
    done = run("status", "x", ICHAT_DEBUG="1")
    assert done.returncode == 64
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("ichat: error[E-USAGE] x: ")


def test_a_bug_is_70_with_its_traceback(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def broken(argv: object) -> int:
        raise RuntimeError("a bug")

    monkeypatch.setattr(cli, "_version", broken)
    assert cli.run(["version"]) == ExitCode.SOFTWARE
    said = capfd.readouterr().err
    assert "Traceback" in said
    assert said.splitlines()[-1].startswith("ichat: error[E-INTERNAL] ichat: RuntimeError('a bug').")


def shell(command: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ICHAT_")}
    command = command.replace("ichat ", f"{sys.executable} -m ichat ", 1)
    return subprocess.run(["bash", "-c", command], env=kept, capture_output=True, text=True, check=False, timeout=30)


@pytest.mark.parametrize("command", ["config", "version", "help"])
def test_what_cannot_be_written_is_73_in_one_line(command: str) -> None:
    done = shell(f"ichat {command} >/dev/full")
    assert done.returncode == ExitCode.CANNOT_CREATE
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("ichat: error[E-OS-DISK-FULL] standard output: No space left on device. ")


def test_a_closed_output_changes_no_outcome() -> None:
    done = shell("ichat version >&-")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reader_that_does_not_wait_changes_no_outcome(tmp_path: Path) -> None:
    done = shell(f"ICHAT_RUN_DIR={tmp_path} ichat health | true; exit ${{PIPESTATUS[0]}}")
    assert (done.returncode, done.stderr) == (1, "")


def test_a_reader_that_has_seen_enough_is_no_failure() -> None:
    done = shell("ichat help | head -1; exit ${PIPESTATUS[0]}")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", [[sys.executable, "-m", "ichat", "health"], [str(ROOT / "entrypoint"), "health"]])
def test_health_of_nothing_is_red_in_one_line(command: list[str], tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"], "ICHAT_RUN_DIR": str(tmp_path)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 1
    assert done.stdout.startswith("not running: ")
    assert done.stderr == ""


# ---- entrypoint -----------------------------------------------------------------------------------------------


def enter(script: Path, *argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    full = {"PATH": os.environ["PATH"], **env}
    return subprocess.run([script, *argv], env=full, capture_output=True, text=True, check=False, timeout=30)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """An entrypoint beside an environment whose Python only says what it was asked."""
    python = tmp_path / ".venvs" / "ichat" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    script = tmp_path / "entrypoint"
    script.write_text((ROOT / "entrypoint").read_text())
    script.chmod(0o755)
    return script


@pytest.mark.parametrize(
    ("argv", "asked"),
    [
        ((), "-P -m ichat serve"),
        (("--backend", "sglang"), "-P -m ichat serve --backend sglang"),
        (("serve", "--port", "1"), "-P -m ichat serve --port 1"),
        (("status",), "-P -m ichat status"),
        (("config", "--backend", "vllm"), "-P -m ichat config --backend vllm"),
        (("--help",), "-P -m ichat --help"),
        (("echo", "as", "it", "is"), "as it is"),
    ],
)
def test_the_entrypoint_serves_unless_told_otherwise(checkout: Path, argv: tuple[str, ...], asked: str) -> None:
    done = enter(checkout, *argv)
    assert (done.returncode, done.stdout.strip()) == (0, asked)


def test_links_to_the_entrypoint_are_followed(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "first").symlink_to(checkout)
    (tmp_path / "bin" / "second").symlink_to("first")
    done = enter(tmp_path / "bin" / "second", "version")
    assert (done.returncode, done.stdout) == (0, "-P -m ichat version\n")


def test_a_link_named_ichat_is_the_command_line_of_ichat(checkout: Path, tmp_path: Path) -> None:
    """The image has it in its PATH: `docker exec … ichat status`. There a slip of the pen must not become a program."""
    (tmp_path / "ichat").symlink_to(checkout)
    for argv in (["status"], ["health", "x"], ["true"], []):
        done = enter(tmp_path / "ichat", *argv)
        assert (done.returncode, done.stdout) == (0, " ".join(["-P -m ichat", *argv]) + "\n")
    assert enter(tmp_path / "ichat", "health", ICHAT_RUN_DIR=str(tmp_path)).stdout.startswith("not running: ")


def test_one_that_runs_on_a_port_from_elsewhere_is_found(checkout: Path) -> None:
    """HEALTHCHECK knows the environment, and not what the YAML file or the command line says."""
    from ichat.launcher.probe import probe_socket

    with tempfile.TemporaryDirectory(prefix="ichat-") as runtime:
        env = {"XDG_RUNTIME_DIR": runtime}
        with listening(Path(runtime, "ichat-9000")):
            assert probe_socket(env) == Path(runtime, "ichat-9000", "ichat.sock")
            assert enter(checkout, "health", **env).stdout == "ready: demo\n"
            assert "no ichat in" in enter(checkout, "health", ICHAT_PORT="8000", **env).stdout, (
                "another one was asked for"
            )
            with listening(Path(runtime, "ichat-9001")):
                assert probe_socket(env) == Path(runtime, "ichat-8000", "ichat.sock"), "which of the two?"
                assert "no ichat in" in enter(checkout, "health", **env).stdout


@contextlib.contextmanager
def listening(run_dir: Path) -> Iterator[None]:
    """Somebody who answers once that he is ready."""
    run_dir.mkdir()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"{run_dir}/ichat.sock")
        sock.listen()

        def answer() -> None:
            with contextlib.suppress(OSError), sock.accept()[0] as client:
                client.recv(4096)
                client.sendall(b"HTTP/1.0 200 OK\r\n\r\nready: demo\n")

        threading.Thread(target=answer, daemon=True).start()
        yield


def test_the_words_of_health_arrive_as_they_are_whatever_curl_is_used_to(checkout: Path) -> None:
    words = r"restarting demo: C:\new\table; attempt 2 of 5"
    (checkout.parent / ".curlrc").write_text("include\n")
    with tempfile.TemporaryDirectory(prefix="ichat-") as run_dir, socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"{run_dir}/ichat.sock")
        sock.listen()

        def answer() -> None:
            client, _ = sock.accept()
            with client:
                client.recv(4096)
                client.sendall(f"HTTP/1.0 503 Service Unavailable\r\n\r\n{words}\n".encode())

        threading.Thread(target=answer, daemon=True).start()
        done = enter(checkout, "health", ICHAT_RUN_DIR=run_dir, HOME=str(checkout.parent))
    assert (done.returncode, done.stdout) == (1, f"{words}\n")


def test_a_missing_environment_is_one_line_that_says_make_setup(checkout: Path) -> None:
    (checkout.parent / ".venvs" / "ichat" / "bin" / "python").unlink()
    done = enter(checkout)
    assert done.returncode == 78
    assert len(done.stderr.splitlines()) == 1
    assert "Run `make setup`." in done.stderr


def test_the_entrypoint_and_the_launcher_look_for_the_socket_in_the_same_place(checkout: Path, tmp_path: Path) -> None:
    from ichat.launcher.probe import probe_socket

    for env in (
        {"ICHAT_RUN_DIR": str(tmp_path / "a")},
        {"ICHAT_SERVER__RUN_DIR": str(tmp_path / "b")},
        {"XDG_RUNTIME_DIR": str(tmp_path), "ICHAT_PORT": "18499"},
        {"XDG_RUNTIME_DIR": str(tmp_path), "ICHAT_SERVER__PORT": "18498"},
        {"ICHAT_PORT": "18497"},
    ):
        done = enter(checkout, "health", **env)
        assert done.stdout.strip() == f"not running: no ichat in {probe_socket(env).parent}"
