"""Which GPUs each instance of a model gets: what was written, in one form, or why that cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ichat.config.flags import WrongValueError
from ichat.config.values import Given
from ichat.errors import Problem

#: How many each instance has, or the ids of each.
Gpus = int | tuple[tuple[str, ...], ...]

_SIZES = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")


def place(
    values: Mapping[str, Any], givens: Mapping[str, Given], own: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Problem]]:
    """The settings of a model that follow from its ``gpus``, and what is wrong with them.

    ``own`` is what the model says in its engine's words. No GPU at all means the CPU.
    """
    if "gpus" not in values:
        return {}, []
    accelerator = values.get("accelerator", "auto")
    try:
        gpus = of_each_instance(values["gpus"], values.get("instances", 1))
        check_ranks(gpus, values, own)
        if (gpus == 0 and accelerator == "cuda") or (gpus != 0 and accelerator == "cpu"):
            where = givens["accelerator"].place
            raise WrongValueError(f"does not go with accelerator {accelerator} ({where}). Remove one of them.")
    except WrongValueError as error:
        return {}, [givens["gpus"].problem(str(error), "E-CFG-CONFLICT")]
    return {"gpus": gpus} | ({"accelerator": "cpu"} if gpus == 0 else {}), []


def of_each_instance(written: Any, instances: int) -> Gpus:
    """``2``, ``[0, 1]`` (for the only instance) or ``[[0, 1], [2, 3]]``; ids become text."""
    if isinstance(written, int):
        return written
    lists = (written,) if isinstance(written[0], int | str) else written
    if len(lists) != instances:
        raise WrongValueError(_wrong_number(written, lists, instances))
    gpus = tuple(tuple(str(gpu) for gpu in ids) for ids in lists)
    for ids in gpus:
        if twice := next((gpu for gpu in ids if ids.count(gpu) > 1), None):
            raise WrongValueError(f"one instance gets GPU {twice} twice. Name it once.")
    return gpus


def check_ranks(gpus: Gpus, values: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Every rank of an instance has a GPU of its own."""
    sizes = {name: values[name] for name in _SIZES if values.get(name, 1) > 1}
    if own.get("enable-dp-attention"):  # SGLang's copies then share the GPUs of tensor_parallel_size
        sizes.pop("data_parallel_size", None)
    if (local := own.get("data-parallel-size-local")) is not None and "data_parallel_size" in sizes:
        sizes["data_parallel_size"] = int(local)  # vLLM: the copies on this machine
    ranks = 1
    for size in sizes.values():
        ranks *= size
    ranks = -(-ranks // values.get("nnodes", 1))
    has = gpus if isinstance(gpus, int) else min(len(ids) for ids in gpus)
    if gpus != 0 and has < ranks:
        product = " × ".join(f"{name} {size}" for name, size in sizes.items())
        on_node = f" on each of {values['nnodes']} machines" if values.get("nnodes", 1) > 1 else ""
        raise WrongValueError(
            f"an instance has {has} GPU{'' if has == 1 else 's'}, but {product} needs {ranks}{on_node}: "
            f"{ranks - has} more. Add them, or lower that."
        )


def _wrong_number(written: Any, lists: Any, instances: int) -> str:
    if lists is not written:
        return (
            f"one list is for one instance, but instances is {instances}. Write a list of lists, one for each: "
            "[[0], [1]]."
        )
    noun = "list" if len(lists) == 1 else "lists"
    return f"has {len(lists)} {noun} of GPUs, but instances is {instances}. Write one list for each instance."
