"""NaN in weight files, in every type and wherever it stands."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from ichat.backends.finite_weights import has_nan, tensor_with_nan
from ichat.backends.warm_up import check_numbers
from ichat.errors import EngineError
from tests.tiny_weights import blank_weights, nan_weights, overflowing_weights
from tests.worker_process import DEMO

NAN, INFINITY = float("nan"), float("inf")
NUMBERS = [0.0, -1.5, 3.0, 1e-30, 65504.0]


def packed(dtype: str, numbers: list[float]) -> bytes:
    if dtype == "BF16":
        return b"".join(struct.pack("<f", number)[2:] for number in numbers)
    return struct.pack(f"<{len(numbers)}{ {'F64': 'd', 'F32': 'f', 'F16': 'e'}[dtype] }", *numbers)


@pytest.mark.parametrize("dtype", ["F64", "F32", "BF16", "F16"])
def test_nan_is_told_from_numbers_and_from_infinity(dtype: str) -> None:
    huge = {"F64": 1.7e308, "F16": 65504.0}.get(dtype, 3e38)
    assert not has_nan(packed(dtype, [*NUMBERS, huge, -huge, INFINITY, -INFINITY] * 100), dtype)
    assert has_nan(packed(dtype, [*NUMBERS * 100, NAN]), dtype)
    assert has_nan(packed(dtype, [huge, INFINITY, -NAN, *NUMBERS]), dtype)


@pytest.mark.parametrize(("dtype", "number", "nan"), [("F8_E4M3", 0x7E, 0x7F), ("F8_E5M2", 0x7C, 0x7E)])
def test_nan_of_a_byte(dtype: str, number: int, nan: int) -> None:
    assert not has_nan(bytes([number, number | 0x80, 0, 0x80]), dtype)
    assert has_nan(bytes([number, nan]), dtype)
    assert has_nan(bytes([number, nan | 0x80]), dtype)


def test_the_models_weights_are_numbers_and_others_are_told_by_name(tmp_path: Path) -> None:
    assert tensor_with_nan(DEMO) is None
    assert tensor_with_nan(blank_weights(tmp_path / "blank")) is None
    assert tensor_with_nan(overflowing_weights(tmp_path / "overflowing")) is None
    assert (tensor_with_nan(nan_weights(tmp_path / "nan")) or "").endswith("_proj.weight")


def test_of_a_large_tensor_pieces_from_its_beginning_to_its_end_are_read(tmp_path: Path) -> None:
    count = 8 * 2**20
    header = json.dumps(
        {"ids": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]},
         "large": {"dtype": "BF16", "shape": [count], "data_offsets": [8, 8 + 2 * count]}}
    ).encode()  # fmt: skip
    start = 8 + len(header) + 8
    for place in (0, count - 1):
        with (tmp_path / "model.safetensors").open("wb") as file:
            file.write(struct.pack("<Q", len(header)) + header + b"\xff" * 8)
            file.truncate(start + 2 * count)
            file.flush()
            assert tensor_with_nan(tmp_path) is None
            file.seek(start + 2 * place)
            file.write(packed("BF16", [NAN]))
        assert tensor_with_nan(tmp_path) == "large"


@pytest.mark.parametrize("numbers", [[NAN], [-0.1, None], [], [[0.5], [INFINITY]], [[]], None])
def test_an_answer_without_numbers_is_no_answer(numbers: object) -> None:
    with pytest.raises(EngineError, match="brought NaN or no numbers at all") as caught:
        check_numbers("/v1/completions", numbers)
    assert caught.value.code == "E-ENG-WARM-UP"


def test_an_answer_of_numbers_is_one() -> None:
    check_numbers("/pooling", [[0.5, -1], [2.0, 3.0]])
