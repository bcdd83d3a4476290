"""What nvidia-smi says is read as it is meant, on drivers that tell all of it and on those that do not."""

from __future__ import annotations

import pytest

from tests.gpu.device import MIB, TOLERANCE_BYTES, Device, Sample, chosen, given_up, number_in, pids_in
from tests.unit.gpu.scripted_gpu import ScriptedGpu


def test_the_facts_of_a_gpu_are_its_name_driver_cuda_and_memory() -> None:
    facts = Device("0", ScriptedGpu()).facts()
    assert facts == {
        "name": "NVIDIA H200", "driver_version": "580.65.06", "compute_cap": "9.0", "memory.total": "143771 MiB", "cuda": "13.0",
    }  # fmt: skip


def test_every_question_names_the_device() -> None:
    gpu = ScriptedGpu()
    Device("GPU-5f3a", gpu).sample()
    assert {argv[0] for argv in gpu.asked} == {"--id=GPU-5f3a"}


def test_a_sample_is_the_memory_in_use_and_the_processes() -> None:
    gpu = ScriptedGpu(used_mib=1200, pids=(11, 7))
    assert Device("0", gpu).sample() == Sample(1200 * MIB, frozenset({7, 11}))


@pytest.mark.parametrize(
    ("said", "number"), [("1234\n", 1234), (" 0 \n5\n", 0), ("[N/A]\n", None), ("[Not Supported]", None), ("", None)]
)
def test_memory_that_the_driver_does_not_tell_is_none(said: str, number: int | None) -> None:
    assert number_in(said) == number


def test_words_in_place_of_processes_are_no_processes() -> None:
    assert pids_in("[Not Found]\n") == frozenset()
    assert pids_in("41\n[N/A]\n42\n") == {41, 42}


def test_what_is_left_is_memory_beyond_the_tolerance_and_every_new_process() -> None:
    before = Sample(500 * MIB, frozenset({1}))
    assert not Sample(500 * MIB + TOLERANCE_BYTES, frozenset({1})).left_since(before)
    assert not Sample(100 * MIB, frozenset()).left_since(before)
    left = Sample(1500 * MIB, frozenset({1, 9, 8})).left_since(before)
    assert left == "1000 MiB more memory are in use than before; processes on the device: 8, 9"


def test_without_a_word_on_memory_processes_are_still_told() -> None:
    assert Sample(None, frozenset({3})).left_since(Sample(None, frozenset())) == "processes on the device: 3"


def test_it_waits_for_a_driver_that_frees_memory_late_and_not_for_ever() -> None:
    gpu = ScriptedGpu(used_mib=900)
    device = Device("0", gpu)

    def is_good(sample: Sample) -> bool:
        gpu.used_mib -= 300
        return sample.used_bytes == 300 * MIB

    assert device.settled(is_good, limit_s=5, step_s=0).used_bytes == 300 * MIB
    assert device.settled(lambda sample: False, limit_s=0, step_s=0).used_bytes == gpu.used_mib * MIB


def test_the_share_that_was_given_up_counts_only_what_the_engine_had_taken() -> None:
    assert given_up(before=10, awake=110, asleep=35) == 0.75
    assert given_up(before=10, awake=110, asleep=110) == 0
    with pytest.raises(ValueError, match="nothing was taken"):
        given_up(before=10, awake=10, asleep=0)


def test_the_device_is_the_first_that_is_visible() -> None:
    assert chosen({}) == "0"
    assert chosen({"CUDA_VISIBLE_DEVICES": " 3,1"}) == "3"
    assert chosen({"CUDA_VISIBLE_DEVICES": "GPU-5f3a"}) == "GPU-5f3a"
