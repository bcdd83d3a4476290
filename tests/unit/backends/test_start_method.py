"""What a forked process does before anything else."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ichat.backends.start_method import cpus_in


@pytest.mark.parametrize(
    ("words", "cpus"),
    [
        ("", set()),
        ("0", {0}),
        ("0 1 2", {0, 1, 2}),
        ("0 2-4", {0, 2, 3, 4}),
        ("{0,1}", {0, 1}),
        ("granularity=fine,explicit,proclist=[3,5]", {3, 5}),
        ("{0:4:2}", set()),
    ],
)
def test_lists_of_cpus_are_read_as_openmp_reads_them(words: str, cpus: set[int]) -> None:
    assert cpus_in(words) == cpus


def test_a_forked_process_keeps_to_its_cpus_and_the_worker_does_not() -> None:
    code = (
        "import os; from ichat.backends import start_method; start_method.guard_forks()\n"
        "all = os.sched_getaffinity(0)\n"
        "os.environ['GOMP_CPU_AFFINITY'] = str(min(all))\n"
        "if os.fork() == 0: print(os.sched_getaffinity(0) == {min(all)}, flush=True); os._exit(0)\n"
        "os.wait(); print(os.sched_getaffinity(0) == all)"
    )
    environment = {name: value for name, value in os.environ.items() if "AFFINITY" not in name and "PLACES" not in name}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["True", "True"]
