"""The manners of the entrypoint, in containers that end by themselves."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.image.containers import Container, error_lines, run_once


def test_a_command_of_ichat_is_that_command() -> None:
    code, out, _ = run_once(argv=("version",))
    assert code == 0
    assert out.startswith("ichat ")
    assert run_once(argv=("ichat", "version"))[1] == out


def test_flags_are_arguments_of_serve() -> None:
    code, _, err = run_once(argv=("--contxt-length", "5"))
    assert code == 64
    assert "did you mean --context-length" in error_lines(err)[0]


def test_anything_else_is_run_as_it_is() -> None:
    assert run_once(argv=("sh", "-c", "echo as it is; exit 7"))[:2] == (7, "as it is\n")
    assert run_once(argv=("no-such-program",))[0] == 127


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_an_engines_exact_arguments_are_told_without_starting_it(engine: str) -> None:
    code, out, _ = run_once("--network", "none", argv=("explain", "--backend", engine, "--context-length", "512"))
    assert code == 0
    assert "512" in out


def test_a_wrong_configuration_is_told_line_by_line_within_a_second(tmp_path: Path) -> None:
    (tmp_path / "configs.yaml").write_text("server:\n  prot: 1\nmodels:\n  m: {model_path: org/m, seed: x}\n")
    (tmp_path / "configs.yaml").chmod(0o644)
    mount = f"{tmp_path}/configs.yaml:/etc/ichat/configs.yaml:ro"
    with Container("--volume", mount) as it:
        assert it.exit_code() == 78
        state = it.state
        lines = it.logs().strip().splitlines()
    assert [line.partition("]")[2].split()[0] for line in lines] == [
        "/etc/ichat/configs.yaml:2:3",
        "/etc/ichat/configs.yaml:4:32",
    ]
    began, ended = (_seconds(state[name]) for name in ("StartedAt", "FinishedAt"))
    assert ended - began < 1


def _seconds(stamp: str) -> float:
    whole, _, part = stamp.rstrip("Z").partition(".")
    return time.mktime(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) + float(f"0.{part or 0}")


def test_a_service_link_of_kubernetes_is_recognised() -> None:
    code, _, err = run_once(ICHAT_PORT="tcp://10.0.0.1:8000")
    assert code == 78
    assert "enableServiceLinks: false" in error_lines(err)[0]


def test_a_secret_in_two_places_is_refused_without_showing_it(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("hunter2\n")
    (tmp_path / "key").chmod(0o644)
    code, out, err = run_once(
        "--volume", f"{tmp_path}/key:/run/secrets/key:ro", ICHAT_API_KEY="other", ICHAT_API_KEY_FILE="/run/secrets/key"
    )
    assert code == 78
    assert len(error_lines(err)) == 1
    assert "hunter2" not in out + err


def test_an_image_for_gpus_says_in_one_line_that_there_is_none() -> None:
    """The image for the CPU, told what the one for GPUs says of itself."""
    code, _, err = run_once(ICHAT_DEFAULTS__ACCELERATOR="cuda")
    assert code == 71
    (line,) = error_lines(err)
    assert err.strip() == line
    assert "--gpus all" in line


def test_several_processes_of_vllm_are_refused_without_the_shared_memory_they_need() -> None:
    code, _, err = run_once(argv=("--tensor-parallel-size", "2"))
    assert code == 71
    assert "--shm-size" in error_lines(err)[0]


def test_a_cache_that_cannot_be_written_is_told_with_its_path() -> None:
    """Any uid with group 0 may write everywhere it must; one of another group needs a cache of its own."""
    code, _, err = run_once("--user", "123456:654321")
    assert code == 77
    assert "/cache/" in error_lines(err)[-1]


def test_the_first_lines_of_help_need_no_engine() -> None:
    assert "usage: ichat" in run_once(argv=("--help",))[1]


def test_the_health_check_is_cheap_and_leaves_no_zombie() -> None:
    """20 ms of CPU for a probe, the shell and curl included."""
    measure = (
        "import json, resource, subprocess\n"
        "for _ in range(20):\n"
        "    subprocess.run(['/opt/ichat/app/entrypoint', 'health'], stdout=subprocess.DEVNULL)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(json.dumps((used.ru_utime + used.ru_stime) / 20))\n"
    )
    with Container() as it:
        it.wait_for(lambda: "loading" in it.words() or "ready" in it.words(), 20)
        cpu_s = json.loads(it.exec("/opt/ichat/ichat/bin/python", "-c", measure))
        states = it.exec("sh", "-c", "grep -h ^State: /proc/[0-9]*/status")
    assert cpu_s <= 0.020
    assert "Z" not in states
